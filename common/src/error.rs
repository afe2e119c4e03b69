//! The error type that every tool reports, and its exit codes.

use std::fmt;
use std::io;
use std::path::Path;

use nix::libc;
use schemars::JsonSchema;
use serde::Serialize;

use crate::code::Code;
use crate::document::SCHEMA_VERSION;
use crate::text;

/// A result whose error is an [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The class of a failure. It decides the exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The operation was tried and failed.
    Failed,
    /// An external program failed.
    CommandFailed,
    /// Reading or writing failed.
    Io,
    /// A signal stopped the command, which undid its steps.
    Interrupted,
    /// The command line is wrong.
    Usage,
    /// An input document or file is not what was expected.
    InvalidInput,
    /// A named thing does not exist.
    NotFound,
    /// An object exists but differs, is busy or in use, or `--yes` is missing.
    Conflict,
    /// The host lacks a needed feature, program or version.
    Unsupported,
    /// The user lacks a permission.
    Permission,
}

impl ErrorKind {
    /// The exit status of the process for an error of this kind.
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

    /// The name of the kind in the JSON error.
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

/// A failure as the user sees it: a message, its causes and a hint.
///
/// The message is lowercase, has no final period, and names the object. It does not contain the cause, which is in
/// [`Error::source`](std::error::Error::source): [`cli::main`](crate::cli::main) prints the chain of causes once.
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

    /// An error of kind `failed`: the operation was tried and failed (exit 1).
    pub fn failed(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Failed, message)
    }

    /// An error of kind `usage`: the command line is wrong (exit 2).
    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Usage, message)
    }

    /// An error of kind `invalid_input`: a document or file is not what was expected (exit 3).
    pub fn invalid_input(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::InvalidInput, message)
    }

    /// An error of kind `not_found`: a named object does not exist (exit 4).
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::NotFound, message)
    }

    /// An error of kind `conflict`: an object exists but differs, or is busy or in use (exit 5).
    pub fn conflict(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Conflict, message)
    }

    /// An error of kind `unsupported`: the host lacks a needed feature, program or version (exit 6).
    pub fn unsupported(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Unsupported, message)
    }

    /// An error of kind `permission`: the user lacks a permission (exit 7).
    pub fn permission(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Permission, message)
    }

    /// Adds the code of the obstacle.
    #[must_use]
    pub fn code(mut self, code: Code) -> Self {
        self.0.code = Some(code);
        self
    }

    /// Adds a hint: a command or an action that solves the problem.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.0.hint = Some(hint.into());
        self
    }

    /// Adds the cause.
    #[must_use]
    pub fn because(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// Adds the changes that remain although the command failed.
    #[must_use]
    pub fn applied(mut self, done: impl IntoIterator<Item = String>) -> Self {
        self.0.applied.extend(done);
        self
    }

    /// Adds the changes that could not be undone.
    #[must_use]
    pub fn left_behind(mut self, left: impl IntoIterator<Item = String>) -> Self {
        self.0.left_behind.extend(left);
        self
    }

    /// The class of failure.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The code of the obstacle, if it has one.
    pub fn known_code(&self) -> Option<Code> {
        self.0.code
    }

    /// The message without its causes.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// The messages of all causes, outermost first.
    pub fn causes(&self) -> Vec<String> {
        let mut causes = Vec::new();
        let mut next = std::error::Error::source(self);
        while let Some(cause) = next {
            causes.push(bounded(cause.to_string()));
            next = cause.source();
        }
        causes
    }

    /// The error as the JSON object that is printed to standard error.
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

    /// The error as lines of text for a terminal, each ended by a newline.
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

/// The JSON object on the last line of standard error when a tool fails.
#[derive(Debug, Serialize, JsonSchema)]
pub struct ErrorDocument {
    /// The version of the schema, `major.minor`. A minor version only adds keys.
    pub schema_version: &'static str,
    /// The error.
    pub error: ErrorBody,
}

/// The error in an [`ErrorDocument`].
#[derive(Debug, Serialize, JsonSchema)]
pub struct ErrorBody {
    /// The class of the failure. It decides the exit status.
    pub kind: &'static str,
    /// The stable code of the obstacle; null when no code fits.
    pub code: Option<Code>,
    /// What failed. The message names the object.
    pub message: String,
    /// The causes, outermost first.
    pub causes: Vec<String>,
    /// A command or an action that solves the problem; null when none is known.
    pub hint: Option<String>,
    /// The exit status of the command.
    pub exit_code: u8,
    /// The changes that remain although the command failed.
    pub applied: Vec<String>,
    /// The changes that could not be undone.
    pub left_behind: Vec<String>,
}

/// Adds the path and the operation to an [`io::Error`], which contains neither.
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
/// The exit code is 4 for a path that is absent or that no file can have (a cycle of links, a name that is too long,
/// a file where a directory is needed). It is 7 when access is denied, 3 for a path with a NUL byte, which only a
/// document can contain, and 1 otherwise.
pub fn io_error(error: io::Error, doing: &str, path: &Path) -> Error {
    let kind = match (error.kind(), error.raw_os_error()) {
        (io::ErrorKind::NotFound | io::ErrorKind::NotADirectory, _)
        | (_, Some(libc::ELOOP | libc::ENAMETOOLONG)) => ErrorKind::NotFound,
        (io::ErrorKind::PermissionDenied, _) => ErrorKind::Permission,
        // An error of the standard library, which never called the kernel.
        (io::ErrorKind::InvalidInput, None) => ErrorKind::InvalidInput,
        _ => ErrorKind::Io,
    };
    Error::new(kind, format!("cannot {doing} {}", path.display())).because(error)
}

/// The longest message. Names in a message may come from a document of any length. Unit: bytes.
const LONGEST: usize = 16 << 10;

/// Shortens a text that is longer than [`LONGEST`].
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
    fn error_text_lists_each_cause_once_and_in_order() {
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
    fn io_errors_map_to_the_kind_of_their_errno() {
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
