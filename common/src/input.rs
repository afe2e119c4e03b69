//! Reading what another tool printed, `-`, and small files that users name.

use std::fs::OpenOptions;
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::time::Duration;

use nix::libc;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::error::{Error, ErrorKind, IoContext, Result};
use crate::interrupt;

/// The argument that stands for standard input.
pub const STDIN: &str = "-";

/// Reads a file that is to be small: at most `limit` bytes. A pipe will do, and is not waited for when
/// a signal comes in.
///
/// Errors: `not_found`, `permission`; `invalid_input` for a folder, and for a larger file.
pub fn file(path: &Path, limit: usize) -> Result<Vec<u8>> {
    let shown = path.display();
    // Opening a pipe that nobody writes to would wait as well.
    let mut options = OpenOptions::new();
    let file = options.read(true).custom_flags(libc::O_NONBLOCK).open(path).at("read", path)?;
    let mut file = file.take(limit as u64 + 1);
    let mut bytes = Vec::new();
    loop {
        match file.read_to_end(&mut bytes) {
            Ok(_) if bytes.len() > limit => {
                return Err(Error::invalid_input(format!("{shown} is larger than {limit} bytes")));
            }
            Ok(_) => return Ok(bytes),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                interrupt::sleep(Duration::from_millis(10))?;
            }
            Err(error) if error.kind() == io::ErrorKind::IsADirectory => {
                return Err(Error::invalid_input(format!("{shown} is a folder")));
            }
            Err(error) => return Err(error).at("read", path),
        }
    }
}

/// The same of a file that holds a secret.
///
/// Errors: those of [`file()`]; `permission` for one that others than its owner can read or write.
pub fn secret_file(path: &Path, limit: usize) -> Result<Vec<u8>> {
    if path.metadata().at("look at", path)?.mode() & 0o077 != 0 {
        let shown = path.display();
        return Err(Error::permission(format!("{shown} can be read by others"))
            .hint(format!("chmod 600 '{shown}'")));
    }
    file(path, limit)
}

/// The name of a thing in an item: text that is not empty and has no NUL byte, which ends a name in libvirt
/// and in the kernel.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(try_from = "String")]
pub struct Name(String);

impl Name {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Name {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, &'static str> {
        match text.as_str() {
            "" => Err("a name is empty"),
            text if text.contains('\0') => Err("a name holds a NUL byte"),
            _ => Ok(Self(text)),
        }
    }
}

impl From<Name> for String {
    fn from(name: Name) -> Self {
        name.0
    }
}

/// Reads items from standard input: a document, a JSON array, or concatenated item objects.
///
/// `kinds` are the kinds, or prefixes of kinds ending in a dot, of documents that are taken; `expected`
/// says in words what should have come. Bare items carry no kind and are judged by their fields.
///
/// Errors: `invalid_input` when nothing came, it is not JSON, it is another kind or major version, or
/// an item lacks a field.
pub fn items<T: DeserializeOwned>(kinds: &[&str], expected: &str) -> Result<Vec<T>> {
    let mut text = String::new();
    io::stdin().lock().read_to_string(&mut text).map_err(|error| {
        let kind = match error.kind() {
            io::ErrorKind::InvalidData => ErrorKind::InvalidInput,
            _ => ErrorKind::Io,
        };
        Error::new(kind, "cannot read standard input").because(error)
    })?;
    parse(&text, kinds, expected)
}

fn parse<T: DeserializeOwned>(text: &str, kinds: &[&str], expected: &str) -> Result<Vec<T>> {
    let mut items = Vec::new();
    let mut values = serde_json::Deserializer::from_str(text).into_iter::<Value>().peekable();
    if values.peek().is_none() {
        return Err(Error::invalid_input(format!("standard input is empty: expected {expected}"))
            .hint("did the command before the pipe fail? set -o pipefail shows it"));
    }
    for value in values {
        let value = value.map_err(|error| {
            Error::invalid_input(format!("standard input is not JSON: expected {expected}"))
                .because(error)
        })?;
        match value {
            Value::Array(array) => items.extend(array),
            Value::Object(_) if value.get("kind").is_some() && value.get("items").is_some() => {
                items.extend(document(value, kinds, expected)?);
            }
            item => items.push(item),
        }
    }
    let typed = items.into_iter().enumerate().map(|(index, item)| {
        T::deserialize(item).map_err(|error| {
            Error::invalid_input(format!("item {} on standard input is not {expected}", index + 1))
                .because(error)
        })
    });
    typed.collect()
}

fn document(mut value: Value, kinds: &[&str], expected: &str) -> Result<Vec<Value>> {
    let kind = value["kind"].as_str().unwrap_or_default();
    let taken = |k: &&str| *k == kind || (k.ends_with('.') && kind.starts_with(*k));
    if !kinds.iter().any(taken) {
        return Err(Error::invalid_input(format!(
            "standard input holds a document of kind {kind:?}: expected {expected}"
        )));
    }
    let version = value["schema_version"].as_str().unwrap_or_default();
    if version.split('.').next() != Some("1") {
        return Err(Error::invalid_input(format!(
            "standard input has schema version {version:?}: this tool reads version 1"
        )));
    }
    match value["items"].take() {
        Value::Array(items) => Ok(items),
        _ => Err(Error::invalid_input("the document on standard input has no array of items")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_files_are_read_and_others_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        assert_eq!(file(&path, 8).unwrap_err().kind(), ErrorKind::NotFound);
        std::fs::write(&path, "12345678").unwrap();
        assert_eq!(file(&path, 8).unwrap(), b"12345678");
        assert_eq!(file(&path, 7).unwrap_err().kind(), ErrorKind::InvalidInput);
        for bad in [folder.path(), Path::new("/dev/zero")] {
            assert_eq!(file(bad, 1024).unwrap_err().kind(), ErrorKind::InvalidInput);
        }
        let pipe = folder.path().join("pipe");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert_eq!(file(&pipe, 8).unwrap(), b"", "nobody writes");
    }

    #[derive(Debug, PartialEq, Deserialize)]
    struct Named {
        name: Name,
        host: Option<String>,
    }

    fn names(text: &str) -> Result<Vec<String>> {
        let items: Vec<Named> = parse(text, &["tdx.td."], "domains")?;
        Ok(items.into_iter().map(|item| item.name.into()).collect())
    }

    #[test]
    fn documents_arrays_and_streams_are_read() {
        for text in [
            r#"{"schema_version":"1.0","kind":"tdx.td.domains","items":[{"name":"a"},{"name":"b"}]}"#,
            r#"{"schema_version":"1.1","kind":"tdx.td.domains","host":"h","items":[{"name":"a"},{"name":"b"}]}"#,
            r#"{"schema_version":"1.99","kind":"tdx.td.domains","items":[{"name":"a"},{"name":"b"}]}"#,
            r#"[{"name":"a"},{"name":"b","more":1}]"#,
            r#"[{"name":"a","host":null},{"name":"b","host":"h"}]"#,
            "{\"name\":\"a\"}\n{\"name\":\"b\"}\n",
            r#"{"name":"a"}{"name":"b"}"#,
        ] {
            assert_eq!(names(text).unwrap(), ["a", "b"], "{text}");
        }
        assert_eq!(names("[]").unwrap(), Vec::<String>::new());
    }

    #[test]
    fn everything_else_is_exit_3() {
        for (text, says) in [
            ("", "standard input is empty: expected domains"),
            (" \n", "standard input is empty: expected domains"),
            ("{", "standard input is not JSON: expected domains"),
            (r#"{"name":"a"} x"#, "standard input is not JSON: expected domains"),
            (r#"["a"]"#, "item 1 on standard input is not domains"),
            (r#"[{"name":"a"},{"nam":"b"}]"#, "item 2 on standard input is not domains"),
            (r#"[{"name":""}]"#, "item 1 on standard input is not domains"),
            (r#"[{"name":"a\u0000b"}]"#, "item 1 on standard input is not domains"),
            (r#"[{"name":"a","host":1}]"#, "item 1 on standard input is not domains"),
            (
                r#"{"schema_version":"1.0","kind":"tdx.pool.volumes","items":[]}"#,
                "standard input holds a document of kind \"tdx.pool.volumes\": expected domains",
            ),
            (
                r#"{"schema_version":"2.0","kind":"tdx.td.domains","items":[]}"#,
                "standard input has schema version \"2.0\": this tool reads version 1",
            ),
            (
                r#"{"schema_version":"1.0","kind":"tdx.td.domains","items":{}}"#,
                "the document on standard input has no array of items",
            ),
        ] {
            let error = names(text).unwrap_err();
            assert_eq!((error.kind(), error.message()), (ErrorKind::InvalidInput, says), "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_text_panics(
            text in "\\PC*",
            words in proptest::collection::vec(
                proptest::sample::select(vec![
                    "{", "}", "[", "]", ",", ":", "\"name\"", "\"items\"", "\"kind\"",
                    "\"tdx.td.domains\"", "\"schema_version\"", "\"1.0\"", "\"1.1\"", "1", "null", " ",
                    "\"host\"", "\"\"", "\"\\u0000\"",
                ]),
                0..30,
            ),
        ) {
            let _ = names(&text);
            let _ = names(&words.concat());
        }
    }
}
