//! Names of images that are JSON: `json:{"driver":"qcow2","file":{"driver":"file","filename":"/a"}}`.
//!
//! QEMU accepts nested and flattened keys (`file.filename`), mixtures of both, and strings in single quotes.
//! Source: QEMU `docs/system/qemu-block-drivers.rst`, `qapi/block-core.json`, `qobject/json-lexer.c`.

use std::collections::BTreeMap;

use serde_json::Value;

use super::local_files::{LocalFiles, is_remote};

/// Adds the files that the JSON text behind `json:` names.
pub(super) fn add(found: &mut LocalFiles, text: &[u8], depth: usize) {
    let parsed = std::str::from_utf8(text).ok().and_then(parse);
    let Some(value) = parsed.filter(Value::is_object) else {
        found.is_incomplete = true;
        let quoted = text.split(|byte| matches!(byte, b'"' | b'\''));
        quoted.filter(|part| part.starts_with(b"/")).for_each(|path| found.add_path(path, true));
        return;
    };
    let mut options = BTreeMap::new();
    flatten("", &value, &mut options);
    for (key, value) in &options {
        let (prefix, option) = key.rsplit_once('.').unwrap_or(("", key));
        if is_below_remote(prefix, &options) {
            continue;
        }
        match option {
            "filename" | "x-image" | "x-raw" => {
                match driver(prefix, &options) {
                    // This driver takes the name literally.
                    Some("file" | "host_device" | "host_cdrom" | "io_uring") => {
                        found.add_path(value.as_bytes(), true);
                    }
                    _ => add_either(found, value, depth),
                }
            }
            "dir" => found.add_directory(value.as_bytes()),
            _ if value.starts_with('/') => found.add_path(value.as_bytes(), true),
            _ if value.starts_with("json:") => found.add_name(value.as_bytes(), depth + 1),
            _ => {}
        }
    }
}

/// Adds a name with a prefix, or a path that QEMU may resolve from its working directory.
fn add_either(found: &mut LocalFiles, name: &str, depth: usize) {
    match name.split(['/']).next().is_some_and(|first| first.contains(':')) {
        true => found.add_name(name.as_bytes(), depth + 1),
        false => found.add_path(name.as_bytes(), true),
    }
}

fn driver<'a>(prefix: &str, options: &'a BTreeMap<String, String>) -> Option<&'a str> {
    let key = if prefix.is_empty() { "driver".to_owned() } else { format!("{prefix}.driver") };
    options.get(&key).map(String::as_str)
}

/// Whether the node of an option, or a node around it, is served remotely.
fn is_below_remote(prefix: &str, options: &BTreeMap<String, String>) -> bool {
    let mut prefix = prefix;
    loop {
        if driver(prefix, options).is_some_and(|driver| is_remote(driver.as_bytes())) {
            return true;
        }
        match prefix.rsplit_once('.') {
            Some((above, _)) => prefix = above,
            None if prefix.is_empty() => return false,
            None => prefix = "",
        }
    }
}

/// Adds every string under its flattened key: `file.filename`, `children.0.filename`.
fn flatten(key: &str, value: &Value, options: &mut BTreeMap<String, String>) {
    let below = |name: &str| match key {
        "" => name.to_owned(),
        _ => format!("{key}.{name}"),
    };
    match value {
        Value::String(text) => drop(options.insert(key.to_owned(), text.clone())),
        Value::Object(object) => {
            object.iter().for_each(|(name, value)| flatten(&below(name), value, options));
        }
        Value::Array(values) => {
            let numbered = values.iter().enumerate();
            numbered.for_each(|(at, value)| flatten(&below(&at.to_string()), value, options));
        }
        _ => {}
    }
}

fn parse(text: &str) -> Option<Value> {
    serde_json::from_str(text).ok().or_else(|| serde_json::from_str(&requote(text)).ok())
}

/// Replaces strings in single quotes by strings in double quotes.
fn requote(text: &str) -> String {
    let mut result = String::with_capacity(text.len());
    let mut quote = None;
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        match (quote, character) {
            (Some(_), '\\') => match characters.next() {
                Some('\'') => result.push('\''),
                Some(escaped) => result.extend(['\\', escaped]),
                None => {}
            },
            (Some('\''), '"') => result.push_str("\\\""),
            (Some(open), _) if open == character => {
                quote = None;
                result.push('"');
            }
            (None, '\'' | '"') => {
                quote = Some(character);
                result.push('"');
            }
            _ => result.push(character),
        }
    }
    result
}
