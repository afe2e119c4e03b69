//! The item of a check in a document.

use std::borrow::Cow;

use common::document::Item;
use schemars::JsonSchema;
use serde::Serialize;

use crate::host::check::code::HostCode;

/// The result of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// The requirement is met.
    Ok,
    /// The requirement is not met. Guests run nevertheless, with a disadvantage.
    Warn,
    /// The requirement is not met, and guests cannot run.
    Fail,
    /// The requirement does not apply to this host, or depends on another one that is not met.
    NotApplicable,
    /// The state could not be determined.
    Unknown,
}

impl Status {
    fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Fail => "FAIL",
            Self::NotApplicable => "n/a",
            Self::Unknown => "unknown",
        }
    }
}

/// A check of the host and its result.
#[derive(Debug, Serialize, JsonSchema)]
pub struct CheckItem {
    /// Name of the check.
    pub code: HostCode,
    /// Result of the check.
    pub status: Status,
    /// What was found, or why the state could not be determined.
    pub found: String,
    /// The requirement.
    pub wanted: &'static str,
    /// How to fix a failure or warning: a command or an action; null if there is nothing to fix.
    pub fix: Option<String>,
}

impl CheckItem {
    /// Whether the check failed, so that guests cannot run.
    pub fn is_failure(&self) -> bool {
        self.status == Status::Fail
    }
}

impl Item for CheckItem {
    const COLUMNS: &'static [&'static str] = &["CODE", "STATUS", "FOUND", "FIX"];
    const WRAPPED: &'static [&'static str] = &["FOUND"];
    const BELOW: Option<&'static str> = Some("FIX");

    fn key(&self) -> Cow<'_, str> {
        self.code.as_str().into()
    }

    fn row(&self) -> Vec<String> {
        vec![
            self.code.as_str().to_owned(),
            self.status.as_str().to_owned(),
            self.found.clone(),
            self.fix.clone().unwrap_or_default(),
        ]
    }

    fn table_order(&self) -> u8 {
        match self.status {
            Status::Fail => 0,
            Status::Warn => 1,
            Status::Unknown => 2,
            Status::Ok => 3,
            Status::NotApplicable => 4,
        }
    }
}

impl HostCode {
    /// Returns the item for a requirement that is met.
    pub fn ok(self, found: impl Into<String>) -> CheckItem {
        self.item(Status::Ok, found.into(), None)
    }

    /// Returns the item for a requirement that is not met, if guests run nevertheless.
    pub fn warn(self, found: impl Into<String>, fix: impl Into<String>) -> CheckItem {
        self.item(Status::Warn, found.into(), Some(fix.into()))
    }

    /// Returns the item for a requirement that is not met, if guests cannot run.
    pub fn fail(self, found: impl Into<String>, fix: impl Into<String>) -> CheckItem {
        self.item(Status::Fail, found.into(), Some(fix.into()))
    }

    /// Returns the item for a requirement that does not apply, or depends on another one that is not met.
    pub fn not_applicable(self, why: impl Into<String>) -> CheckItem {
        self.item(Status::NotApplicable, why.into(), None)
    }

    /// Returns the item for a requirement that was not checked, because `cause` is not met.
    pub fn not_checked(self, cause: Self) -> CheckItem {
        self.not_applicable(format!("not checked, because check {} did not pass", cause.as_str()))
    }

    /// Returns the item for a state that could not be determined.
    pub fn unknown(self, why: impl Into<String>) -> CheckItem {
        self.item(Status::Unknown, why.into(), None)
    }

    fn item(self, status: Status, found: String, fix: Option<String>) -> CheckItem {
        CheckItem { code: self, status, found, wanted: self.wanted(), fix }
    }
}
