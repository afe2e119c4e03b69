//! One check with its result.

use std::borrow::Cow;

use common::document::Item;
use schemars::JsonSchema;
use serde::Serialize;

use crate::host::check::code::HostCode;

/// How something stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// As it has to be.
    Ok,
    /// Guests run, and something is worse than it could be.
    Warn,
    /// Guests do not run.
    Fail,
    /// It does not matter here, or follows from something else.
    NotApplicable,
    /// Nobody can tell.
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

/// Something that was looked at.
#[derive(Debug, Serialize, JsonSchema)]
pub struct CheckItem {
    /// What it is.
    pub code: HostCode,
    /// How it stands.
    pub status: Status,
    /// What is there, or why nobody can tell.
    pub found: String,
    /// What has to hold.
    pub wanted: &'static str,
    /// What to do about it: a command, or a sentence; null where there is nothing to do.
    pub fix: Option<String>,
}

impl CheckItem {
    /// Whether guests do not run for it.
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
    /// It holds.
    pub fn ok(self, found: impl Into<String>) -> CheckItem {
        self.item(Status::Ok, found.into(), None)
    }

    /// It does not, and guests run all the same.
    pub fn warn(self, found: impl Into<String>, fix: impl Into<String>) -> CheckItem {
        self.item(Status::Warn, found.into(), Some(fix.into()))
    }

    /// It does not, and guests do not run.
    pub fn fail(self, found: impl Into<String>, fix: impl Into<String>) -> CheckItem {
        self.item(Status::Fail, found.into(), Some(fix.into()))
    }

    /// It does not matter here, or follows from something else.
    pub fn not_applicable(self, why: impl Into<String>) -> CheckItem {
        self.item(Status::NotApplicable, why.into(), None)
    }

    /// Nobody can tell.
    pub fn unknown(self, why: impl Into<String>) -> CheckItem {
        self.item(Status::Unknown, why.into(), None)
    }

    fn item(self, status: Status, found: String, fix: Option<String>) -> CheckItem {
        CheckItem { code: self, status, found, wanted: self.wanted(), fix }
    }
}
