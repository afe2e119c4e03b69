//! Reads items from standard input (`-`), and small files that users name.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::libc;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::document::reader;
use crate::document::reader::ReadError;
use crate::error::{Error, ErrorKind, Result, io_error};

/// The argument that stands for standard input.
pub const STDIN: &str = "-";

/// The most that is read from standard input: a hundred times the size of a document of ten thousand devices. Unit:
/// bytes.
const STDIN_LIMIT: usize = 256 << 20;

/// What messages call standard input.
pub const STDIN_NAME: &str = "standard input";

const CANNOT_READ_STDIN: &str = "cannot read standard input";

/// Reads a file of at most `limit` bytes. A named pipe is waited for until a signal is received.
///
/// Errors: `not_found`, `permission`; `invalid_input` for a directory, and for a larger file.
pub fn file(path: &Path, limit: usize) -> Result<Vec<u8>> {
    let read = reader::read_to_end(open(path)?, limit, path.display());
    read.map_err(|error| cannot_read(path, error))
}

/// Reads a text file of at most `limit` bytes; none when the file is absent.
///
/// Errors: those of [`file()`] for other reasons; `invalid_input` for a file that is not UTF-8.
pub fn text_file(path: &Path, limit: usize) -> Result<Option<String>> {
    let file = match open_at_once(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => file.map_err(|error| cannot_read(path, ReadError::Io(error)))?,
    };
    let bytes = reader::read_to_end(file, limit, path.display());
    let text = String::from_utf8(bytes.map_err(|error| cannot_read(path, error))?);
    text.map(Some).map_err(|error| {
        Error::invalid_input(format!("{} is not UTF-8", path.display())).because(error)
    })
}

/// Opens a file for reading.
pub(crate) fn open(path: &Path) -> Result<File> {
    open_at_once(path).map_err(|error| cannot_read(path, ReadError::Io(error)))
}

/// Opens without waiting for the other end of a named pipe.
fn open_at_once(path: &Path) -> io::Result<File> {
    let flags = libc::O_NONBLOCK | libc::O_NOCTTY;
    OpenOptions::new().read(true).custom_flags(flags).open(path)
}

pub(crate) fn cannot_read(path: &Path, error: ReadError) -> Error {
    let shown = path.display();
    match error {
        ReadError::Refused(error) => error,
        ReadError::Io(error) if error.kind() == io::ErrorKind::IsADirectory => {
            Error::invalid_input(format!("{shown} is a directory"))
        }
        ReadError::Io(error) if error.raw_os_error() == Some(libc::ENXIO) => Error::invalid_input(
            format!("{shown} is a socket or the node of a device that does not exist, not a file"),
        ),
        ReadError::Io(error) => io_error(error, "read", path),
    }
}

/// Reads items from standard input: a document, a JSON array, or concatenated item objects.
///
/// `kinds` are the kinds of documents that are accepted, or prefixes of kinds that end in a dot. `expected` names
/// the expected items in messages. Items without a document have no kind and are checked by their fields only.
///
/// Errors: `invalid_input` for empty input, for input that is not JSON, for a document of another kind or major
/// version, and for an item that lacks a field.
pub fn items<T: DeserializeOwned>(kinds: &[&str], expected: &str) -> Result<Vec<T>> {
    parse(&stdin(expected)?, STDIN_NAME, kinds, expected)
}

/// Reads items from a file of at most `limit` bytes, or from standard input if the path is `-`, as [`items`] does.
///
/// Errors: those of [`file()`] and [`items`].
pub fn items_from<T: DeserializeOwned>(
    path: &Path,
    limit: usize,
    kinds: &[&str],
    expected: &str,
) -> Result<Vec<T>> {
    if path == Path::new(STDIN) {
        return items(kinds, expected);
    }
    let shown = path.display().to_string();
    let text = String::from_utf8(file(path, limit)?)
        .map_err(|error| Error::invalid_input(format!("{shown} is not UTF-8")).because(error))?;
    parse(&text, &shown, kinds, expected)
}

/// Reads the text on standard input. `expected` names the expected content in messages.
///
/// Errors: `invalid_input` for a directory, for text that is not UTF-8 and for more than 256 MiB.
pub fn stdin(expected: &str) -> Result<String> {
    String::from_utf8(stdin_bytes(STDIN_LIMIT, expected)?)
        .map_err(|error| Error::new(ErrorKind::InvalidInput, CANNOT_READ_STDIN).because(error))
}

/// What messages call a file, or standard input if the path is `-`.
pub fn name(path: &Path) -> String {
    if path == Path::new(STDIN) { STDIN_NAME.to_owned() } else { path.display().to_string() }
}

/// Reads a file of at most `limit` bytes, or standard input if the path is `-`. `expected` names the expected content
/// in messages.
///
/// Errors: those of [`file()`] and [`stdin`].
pub fn bytes_from(path: &Path, limit: usize, expected: &str) -> Result<Vec<u8>> {
    if path == Path::new(STDIN) { stdin_bytes(limit, expected) } else { file(path, limit) }
}

fn stdin_bytes(limit: usize, expected: &str) -> Result<Vec<u8>> {
    let bytes = reader::read_to_end(io::stdin().lock(), limit, STDIN_NAME);
    bytes.map_err(|error| match error {
        ReadError::Refused(error) => error,
        ReadError::Io(error) if error.kind() == io::ErrorKind::IsADirectory => {
            Error::invalid_input(format!("standard input is a directory: expected {expected}"))
        }
        ReadError::Io(error) => Error::new(ErrorKind::Io, CANNOT_READ_STDIN).because(error),
    })
}

/// Reads items from text, as [`items`] does. `source` names the file, or standard input ([`STDIN_NAME`]), in messages.
///
/// Errors: those of [`items`].
pub fn parse<T: DeserializeOwned>(
    text: &str,
    source: &str,
    kinds: &[&str],
    expected: &str,
) -> Result<Vec<T>> {
    let mut items = Vec::new();
    let mut values = serde_json::Deserializer::from_str(text).into_iter::<Value>().peekable();
    if values.peek().is_none() {
        let error = Error::invalid_input(format!("{source} is empty: expected {expected}"));
        return Err(match source {
            STDIN_NAME => error.hint(
                "run set -o pipefail, then this pipeline again: the exit status shows whether the command before \
                 the pipe failed",
            ),
            _ => error,
        });
    }
    for value in values {
        let value = value.map_err(|error| {
            Error::invalid_input(format!("{source} is not JSON: expected {expected}"))
                .because(error)
        })?;
        match value {
            Value::Array(array) => items.extend(array),
            Value::Object(_) if value.get("kind").is_some() && value.get("items").is_some() => {
                items.extend(document(value, source, kinds, expected)?);
            }
            item => items.push(item),
        }
    }
    let typed = items.into_iter().enumerate().map(|(index, item)| {
        T::deserialize(item).map_err(|error| {
            let index = index + 1;
            let place = if source == STDIN_NAME { "on" } else { "in" };
            Error::invalid_input(format!(
                "item {index} {place} {source} is invalid: expected {expected}"
            ))
            .because(error)
        })
    });
    typed.collect()
}

fn document(mut value: Value, source: &str, kinds: &[&str], expected: &str) -> Result<Vec<Value>> {
    let kind = value["kind"].as_str().unwrap_or_default();
    let taken = |k: &&str| *k == kind || (k.ends_with('.') && kind.starts_with(*k));
    if !kinds.iter().any(taken) {
        return Err(Error::invalid_input(format!(
            "{source} is a document of kind {kind:?}: expected {expected}"
        )));
    }
    let version = value["schema_version"].as_str().unwrap_or_default();
    if version.split('.').next() != Some("1") {
        return Err(Error::invalid_input(format!(
            "{source} has schema version {version:?}: this tool reads versions 1.x"
        )));
    }
    match value["items"].take() {
        Value::Array(items) => Ok(items),
        _ => Err(Error::invalid_input(format!("the document of {source} has no array 'items'"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[test]
    fn file_reads_small_files_and_refuses_others() {
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
        std::thread::scope(|scope| {
            let read = scope.spawn(|| file(&pipe, 8).unwrap());
            std::fs::write(&pipe, "12345678").unwrap();
            assert_eq!(read.join().unwrap(), b"12345678", "the writer was not waited for");
        });
    }

    #[derive(Debug, PartialEq, Deserialize)]
    struct Named {
        #[serde(deserialize_with = "crate::name::deserialize")]
        name: String,
        host: Option<String>,
    }

    fn names(text: &str) -> Result<Vec<String>> {
        let items: Vec<Named> = parse(text, STDIN_NAME, &["tdx.td."], "domains")?;
        Ok(items.into_iter().map(|item| item.name).collect())
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
    fn other_input_is_invalid_input() {
        for (text, says) in [
            ("", "standard input is empty: expected domains"),
            (" \n", "standard input is empty: expected domains"),
            ("{", "standard input is not JSON: expected domains"),
            (r#"{"name":"a"} x"#, "standard input is not JSON: expected domains"),
            (r#"["a"]"#, "item 1 on standard input is invalid: expected domains"),
            (
                r#"[{"name":"a"},{"nam":"b"}]"#,
                "item 2 on standard input is invalid: expected domains",
            ),
            (r#"[{"name":""}]"#, "item 1 on standard input is invalid: expected domains"),
            (r#"[{"name":"a\u0000b"}]"#, "item 1 on standard input is invalid: expected domains"),
            (r#"[{"name":"a","host":1}]"#, "item 1 on standard input is invalid: expected domains"),
            (
                r#"{"schema_version":"1.0","kind":"tdx.pool.volumes","items":[]}"#,
                "standard input is a document of kind \"tdx.pool.volumes\": expected domains",
            ),
            (
                r#"{"schema_version":"2.0","kind":"tdx.td.domains","items":[]}"#,
                "standard input has schema version \"2.0\": this tool reads versions 1.x",
            ),
            (
                r#"{"schema_version":"1.0","kind":"tdx.td.domains","items":{}}"#,
                "the document of standard input has no array 'items'",
            ),
        ] {
            let error = names(text).unwrap_err();
            assert_eq!((error.kind(), error.message()), (ErrorKind::InvalidInput, says), "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_parse_panic(
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
