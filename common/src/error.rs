//! The one error type every tool reports, and its exit codes.

use std::fmt;
use std::io;
use std::path::Path;

use nix::libc;
use schemars::JsonSchema;
use serde::Serialize;

use crate::code::Code;
use crate::document::SCHEMA_VERSION;
use crate::text;

/// The result of anything that can fail with an [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What class of failure happened. Decides the exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The operation was tried and failed.
    Failed,
    /// An external program failed.
    CommandFailed,
    /// Reading or writing failed.
    Io,
    /// A signal asked the tool to stop; what it had begun was undone.
    Interrupted,
    /// The command line is wrong.
    Usage,
    /// An input document or file is not what was expected.
    InvalidInput,
    /// A named thing does not exist.
    NotFound,
    /// It exists but differs, is busy or in use, or `--yes` is missing.
    Conflict,
    /// The host lacks what is needed.
    Unsupported,
    /// The caller may not do this.
    Permission,
}

impl ErrorKind {
    /// The process exit status for this kind, as documented in the README.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Failed | Self::CommandFailed | Self::Io | Self::Interrupted => 1,
            Self::Usage => 2,
            Self::InvalidInput => 3,
            Self::NotFound => 4,
            Self::Conflict => 5,
            Self::Unsupported => 6,
            Self::Permission => 7,
        }
    }

    /// The kind as it stands in the JSON error.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Failed => "failed",
            Self::CommandFailed => "command_failed",
            Self::Io => "io",
            Self::Interrupted => "interrupted",
            Self::Usage => "usage",
            Self::InvalidInput => "invalid_input",
            Self::NotFound => "not_found",
            Self::Conflict => "conflict",
            Self::Unsupported => "unsupported",
            Self::Permission => "permission",
        }
    }
}

/// A failure as the user sees it.
///
/// The message is lowercase, has no final period, names the object and leaves the cause to
/// [`Error::source`](std::error::Error::source): the chain is printed once, by the command-line frame.
#[derive(Debug)]
pub struct Error(Box<Inner>);

#[derive(Debug)]
struct Inner {
    kind: ErrorKind,
    code: Option<Code>,
    message: String,
    hint: Option<String>,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
    applied: Vec<String>,
    left_behind: Vec<String>,
}

impl Error {
    /// An error of `kind` with a message that names the object.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self(Box::new(Inner {
            kind,
            code: None,
            message: bounded(message.into()),
            hint: None,
            source: None,
            applied: Vec::new(),
            left_behind: Vec::new(),
        }))
    }

    /// The operation was tried and failed (exit 1).
    pub fn failed(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Failed, message)
    }

    /// The command line is wrong (exit 2).
    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Usage, message)
    }

    /// A document or file is not what was expected (exit 3).
    pub fn invalid_input(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::InvalidInput, message)
    }

    /// A named thing does not exist (exit 4).
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::NotFound, message)
    }

    /// It exists but differs, or is in use (exit 5).
    pub fn conflict(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Conflict, message)
    }

    /// The host lacks what is needed (exit 6).
    pub fn unsupported(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Unsupported, message)
    }

    /// The caller may not do this (exit 7).
    pub fn permission(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Permission, message)
    }

    /// Names what stands in the way.
    #[must_use]
    pub fn code(mut self, code: Code) -> Self {
        self.0.code = Some(code);
        self
    }

    /// Says what to do about it.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.0.hint = Some(hint.into());
        self
    }

    /// Records what this error was caused by.
    #[must_use]
    pub fn because(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// Records the changes that hold although the command failed.
    #[must_use]
    pub fn applied(mut self, done: impl IntoIterator<Item = String>) -> Self {
        self.0.applied.extend(done);
        self
    }

    /// Records what could not be undone.
    #[must_use]
    pub fn left_behind(mut self, left: impl IntoIterator<Item = String>) -> Self {
        self.0.left_behind.extend(left);
        self
    }

    /// The class of failure.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The code of what stands in the way, where it has one.
    pub fn known_code(&self) -> Option<Code> {
        self.0.code
    }

    /// The message without its causes.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// Everything below this error, outermost first.
    pub fn causes(&self) -> Vec<String> {
        let mut causes = Vec::new();
        let mut next = std::error::Error::source(self);
        while let Some(cause) = next {
            causes.push(bounded(cause.to_string()));
            next = cause.source();
        }
        causes
    }

    /// The error as one JSON object, the shape that goes to standard error.
    pub fn to_document(&self) -> ErrorDocument {
        ErrorDocument {
            schema_version: SCHEMA_VERSION,
            error: ErrorBody {
                kind: self.0.kind.as_str(),
                code: self.0.code,
                message: self.0.message.clone(),
                causes: self.causes(),
                hint: self.0.hint.clone(),
                exit_code: self.0.kind.exit_code(),
                applied: self.0.applied.clone(),
                left_behind: self.0.left_behind.clone(),
            },
        }
    }

    /// The error as lines for a terminal, each ended by a newline.
    pub fn to_text(&self, tool: &str) -> String {
        let mut text = format!("{tool}: error: {}\n", text::lines(&self.0.message));
        let lines = [
            ("caused by", self.causes()),
            ("done", self.0.applied.clone()),
            ("left behind", self.0.left_behind.clone()),
            ("hint", self.0.hint.iter().cloned().collect()),
        ];
        for (label, values) in lines {
            for value in values {
                text.push_str(&format!("{label}: {}\n", text::lines(&value)));
            }
        }
        text
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_deref().map(|source| source as _)
    }
}

/// What goes to standard error, on its last line, when a tool fails.
#[derive(Debug, Serialize, JsonSchema)]
pub struct ErrorDocument {
    /// Version of this shape, `major.minor`.
    pub schema_version: &'static str,
    /// What happened.
    pub error: ErrorBody,
}

/// An error in an [`ErrorDocument`].
#[derive(Debug, Serialize, JsonSchema)]
pub struct ErrorBody {
    /// The class of failure; decides the exit status.
    pub kind: &'static str,
    /// A stable code for what stands in the way, where one fits.
    pub code: Option<Code>,
    /// What failed, naming the object.
    pub message: String,
    /// Why, outermost cause first.
    pub causes: Vec<String>,
    /// What to do about it.
    pub hint: Option<String>,
    /// The exit status.
    pub exit_code: u8,
    /// Changes that hold although the command failed.
    pub applied: Vec<String>,
    /// What could not be undone.
    pub left_behind: Vec<String>,
}

/// Attaches the path and what was being done to an [`io::Error`], which knows neither.
pub trait IoContext<T> {
    /// Maps the error to `cannot <doing> <path>`, with the exit code of [`io_error`].
    fn at(self, doing: &str, path: impl AsRef<Path>) -> Result<T>;
}

impl<T, E: Into<io::Error>> IoContext<T> for Result<T, E> {
    fn at(self, doing: &str, path: impl AsRef<Path>) -> Result<T> {
        self.map_err(|error| io_error(error.into(), doing, path.as_ref()))
    }
}

/// The error `cannot <doing> <path>`.
///
/// A path that is absent, or that no file can have (links in a circle, a name that is too long, a file where a
/// directory is needed), is exit 4. One that is forbidden is exit 7, one with a NUL byte, which only a document
/// can hold, exit 3, everything else exit 1.
pub fn io_error(error: io::Error, doing: &str, path: &Path) -> Error {
    let kind = match (error.kind(), error.raw_os_error()) {
        (io::ErrorKind::NotFound | io::ErrorKind::NotADirectory, _)
        | (_, Some(libc::ELOOP | libc::ENAMETOOLONG)) => ErrorKind::NotFound,
        (io::ErrorKind::PermissionDenied, _) => ErrorKind::Permission,
        // Of the standard library: the kernel never saw it.
        (io::ErrorKind::InvalidInput, None) => ErrorKind::InvalidInput,
        _ => ErrorKind::Io,
    };
    Error::new(kind, format!("cannot {doing} {}", path.display())).because(error)
}

/// The most bytes of a message: what it names may come from a document.
const LONGEST: usize = 16 << 10;

/// The text, or the start of one that is too long.
fn bounded(mut text: String) -> String {
    if text.len() > LONGEST {
        let end = (0..=LONGEST).rev().find(|at| text.is_char_boundary(*at));
        text.truncate(end.unwrap_or_default());
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_chain_is_told_once_and_in_order() {
        let inner = io::Error::other("disk on fire");
        let error = Error::failed("cannot import a.qcow2")
            .because(Error::new(ErrorKind::Io, "cannot write b").because(inner))
            .hint("use another disk");
        assert_eq!(
            error.to_text("tdx-pool"),
            "tdx-pool: error: cannot import a.qcow2\n\
             caused by: cannot write b\n\
             caused by: disk on fire\n\
             hint: use another disk\n"
        );
        let body = error.to_document().error;
        assert_eq!((body.causes[1].as_str(), body.exit_code), ("disk on fire", 1));
    }

    #[test]
    fn io_errors_keep_their_class() {
        let gone: Result<(), io::Error> = Err(io::ErrorKind::NotFound.into());
        let error = gone.at("read", "/x").unwrap_err();
        assert_eq!((error.kind(), error.message()), (ErrorKind::NotFound, "cannot read /x"));
        for (number, kind) in [
            (libc::ELOOP, ErrorKind::NotFound),
            (libc::ENAMETOOLONG, ErrorKind::NotFound),
            (libc::ENOTDIR, ErrorKind::NotFound),
            (libc::EACCES, ErrorKind::Permission),
            (libc::EINVAL, ErrorKind::Io),
        ] {
            let failed: Result<(), io::Error> = Err(io::Error::from_raw_os_error(number));
            assert_eq!(failed.at("read", "/x").unwrap_err().kind(), kind, "{number}");
        }
        let nul = std::fs::read("a\0b").at("read", "a\0b").unwrap_err();
        assert_eq!(nul.kind(), ErrorKind::InvalidInput);
    }
}
