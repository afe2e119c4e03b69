//! The reason why a text is not well-formed XML, with line and column.

use std::borrow::Cow;

use crate::error::Error;

/// The fault of a text, and its position.
#[derive(Debug)]
pub(super) struct Fault {
    pub(super) at: usize,
    what: Cow<'static, str>,
}

impl Fault {
    pub(super) fn new(at: usize, what: impl Into<Cow<'static, str>>) -> Self {
        Self { at, what: what.into() }
    }

    /// An `&` that begins no known reference.
    pub(super) fn reference(at: usize) -> Self {
        Self::new(at, "unknown reference; write & as &amp;")
    }

    pub(super) fn into_error(self, text: &str) -> Error {
        let (line, column) = line_column(text, self.at);
        Error::invalid_input(format!("malformed XML at {line}:{column}: {}", self.what))
    }
}

/// Returns line and column of an offset, counted from one, the column in characters.
pub(super) fn line_column(text: &str, at: usize) -> (usize, usize) {
    let before = &text.as_bytes()[..at.min(text.len())];
    let line = before.iter().filter(|&&byte| byte == b'\n').count();
    let column = before.rsplit(|&byte| byte == b'\n').next().unwrap_or_default();
    // Bytes 10xxxxxx continue a character.
    (line + 1, column.iter().filter(|&&byte| byte & 0xc0 != 0x80).count() + 1)
}
