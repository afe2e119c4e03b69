//! The files that a value in libvirt's XML names. The value may be an argument of QEMU's command line.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::local_files::LocalFiles;

/// Adds the absolute paths in a value: the whole value, the text after each separator, and the options that
/// QEMU would read from it.
pub fn add_paths(value: &str, files: &mut BTreeSet<PathBuf>) {
    if !value.contains(['/', '{']) {
        return;
    }
    let mut add = |part: &str| {
        if part.starts_with('/') && part.len() > 1 {
            files.insert(PathBuf::from(part));
        }
    };
    let separators = |c: char| c.is_whitespace() || matches!(c, '=' | ',' | ':' | '"' | '\'' | ';');
    add(value);
    value.split(separators).filter(|part| part.len() < value.len()).for_each(&mut add);
    // QEMU writes a comma in a value as two commas.
    let options = value.replace(",,", "\0");
    for option in options.split(',') {
        let value = option.split_once('=').map_or(option, |(_, value)| value);
        add(&value.replace('\0', ","));
    }
    if value.contains('{') {
        add_json(value, files);
    }
}

/// Adds the files of a JSON name, or of JSON for `-blockdev`, which can stand among other options.
fn add_json(value: &str, files: &mut BTreeSet<PathBuf>) {
    let (Some(start), Some(end)) = (value.find('{'), value.rfind('}')) else { return };
    let json = value.get(start..=end).unwrap_or_default();
    let texts = [Cow::Borrowed(json), Cow::Owned(json.replace(",,", ","))];
    for json in texts.iter().take(if json.contains(",,") { 2 } else { 1 }) {
        let local = LocalFiles::parse(format!("json:{json}").as_bytes());
        files.extend(local.files.iter().flat_map(|file| file.paths_from(Path::new("/"))));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn add_paths_finds_paths_inside_values() {
        for (value, wanted) in [
            ("/a/b", vec!["/a/b"]),
            ("/a b/c", vec!["/a", "/a b/c"]),
            ("file=/a/b,if=virtio", vec!["/a/b"]),
            ("file=/a,,b c,if=virtio", vec!["/a", "/a,b c"]),
            ("file:/a/b", vec!["/a/b"]),
            (r#"{"filename":"/a/b"}"#, vec!["/a/b"]),
            (r#"{"driver":"file","filename":"/a,b"}"#, vec!["/a", "/a,b"]),
            (
                r#"if=none,file=json:{"file":{"filename":"/a,,b"},,"driver":"raw"}"#,
                vec!["/a", "/a,,b", "/a,b"],
            ),
            ("application/x", vec![]),
            ("/", vec![]),
            ("", vec![]),
        ] {
            let mut found = BTreeSet::new();
            add_paths(value, &mut found);
            let wanted: BTreeSet<PathBuf> = wanted.into_iter().map(PathBuf::from).collect();
            assert!(found.is_superset(&wanted), "{value}: {found:?}");
            assert!(!wanted.is_empty() || found.is_empty(), "{value}: {found:?}");
        }
    }
}
