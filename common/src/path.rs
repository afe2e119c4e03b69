//! Converts paths to text.

use std::path::Path;

use crate::error::{Error, ErrorKind, Result};

/// The path as text. `what` names the path in the message, such as `pool path`.
///
/// Errors: of the given kind, for a path that is not UTF-8.
pub fn utf8<'a>(what: &str, path: &'a Path, kind: ErrorKind) -> Result<&'a str> {
    let error = || Error::new(kind, format!("{what} {} is not UTF-8", path.display()));
    path.to_str().ok_or_else(error)
}
