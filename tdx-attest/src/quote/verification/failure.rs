//! The reason why a check of a quote failed.

use common::Code;

/// The reason why a check failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The stable code, if one fits.
    pub code: Option<Code>,
    /// The reason in words.
    pub message: String,
}

impl Failure {
    /// A failure with a stable code.
    pub fn of(code: Code, message: impl Into<String>) -> Self {
        Self { code: Some(code), message: message.into() }
    }
}

impl From<String> for Failure {
    fn from(message: String) -> Self {
        Self { code: None, message }
    }
}

impl From<&str> for Failure {
    fn from(message: &str) -> Self {
        message.to_owned().into()
    }
}
