//! A predicted event, and how certain a prediction is.

use schemars::JsonSchema;
use serde::Serialize;
use sha2::{Digest as _, Sha384};

use crate::register::Digest;

/// How certain a predicted value is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Certainty {
    /// The value follows from the firmware and the definition.
    Exact,
    /// The value holds if the assumptions hold.
    Conditional,
    /// The value can be recomputed from the text of an event log, but is not predicted.
    Explained,
    /// The value is not predicted.
    Unknown,
}

impl Certainty {
    /// The name of the certainty in documents.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Exact => "exact",
            Self::Conditional => "conditional",
            Self::Explained => "explained",
            Self::Unknown => "unknown",
        }
    }
}

/// A predicted event of a register.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct PredictedEvent {
    /// What is measured, such as `variable PK`.
    pub description: String,
    /// The name of the UEFI variable that is measured, such as `PK`; null for an event of another kind.
    pub variable: Option<String>,
    /// The SHA-384 digest of the event, in hexadecimal digits; null when it is not predicted.
    pub digest: Option<String>,
    /// How certain the digest is.
    pub certainty: Certainty,
    /// What must be true for the digest to be right.
    pub assumes: Vec<String>,
    /// Why the digest is not predicted; null when it is predicted.
    pub reason: Option<String>,
}

impl PredictedEvent {
    /// The event whose digest is that of `bytes`.
    pub(super) fn exact(description: impl Into<String>, bytes: &[u8]) -> Self {
        Self {
            description: description.into(),
            variable: None,
            digest: Some(Digest(Sha384::digest(bytes).into()).to_string()),
            certainty: Certainty::Exact,
            assumes: Vec::new(),
            reason: None,
        }
    }

    /// An event whose digest is not predicted, for this reason.
    pub(super) fn unknown(description: impl Into<String>, reason: impl Into<String>) -> Self {
        Self {
            description: description.into(),
            variable: None,
            digest: None,
            certainty: Certainty::Unknown,
            assumes: Vec::new(),
            reason: Some(reason.into()),
        }
    }

    /// The event of a UEFI variable.
    pub(super) fn of_variable(self, name: &str) -> Self {
        Self { variable: Some(name.to_owned()), ..self }
    }

    /// Makes the digest of a predicted event depend on an assumption.
    #[must_use]
    pub fn assuming(mut self, assumption: impl Into<String>) -> Self {
        if self.digest.is_some() {
            self.certainty = Certainty::Conditional;
            self.assumes.push(assumption.into());
        }
        self
    }
}
