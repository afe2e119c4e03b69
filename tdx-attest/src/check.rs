//! The checks of a quote, as documents list them.

use std::borrow::Cow;

use common::Code;
use common::document::Item;
use schemars::JsonSchema;
use serde::Serialize;

use crate::quote::verification::failure::Failure;

/// The names of the checks, in the order in which a table shows them.
const ORDER: [&str; 21] = [
    "signature",
    "chain",
    "collateral",
    "revocation",
    "fmspc",
    "qe_identity",
    "tcb",
    "tcb_date",
    "advisories",
    "attributes",
    "xfam",
    "report_data",
    "event_log",
    "mrtd",
    "rtmr0",
    "rtmr1",
    "rtmr2",
    "rtmr3",
    "mrconfigid",
    "mrowner",
    "mrownerconfig",
];

/// The result of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum CheckResult {
    /// The quote is as demanded.
    Passed,
    /// The quote is not as demanded.
    Failed,
    /// The check was not asked for, or depends on a check that failed.
    NotChecked,
}

/// A check of a quote.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct Check {
    /// The name of the check: `signature`, `chain`, `tcb`, …, or of the register that is compared.
    pub check: &'static str,
    /// The result.
    pub result: CheckResult,
    /// The stable code of the failure, or of a note about a check that passed; null when none fits.
    pub code: Option<Code>,
    /// The reason why the check failed or was not made; null for a check that passed.
    pub message: Option<String>,
    /// What was demanded: accepted values, or values that must all be equal to the value found. Empty when nothing was.
    pub expected: Vec<String>,
    /// The values in the quote, or those that Intel states about the platform. Empty when unknown.
    pub found: Vec<String>,
}

impl Check {
    /// A check that was made.
    pub fn made(check: &'static str, result: Result<(), Failure>) -> Self {
        let (result, failure) = match result {
            Ok(()) => (CheckResult::Passed, None),
            Err(failure) => (CheckResult::Failed, Some(failure)),
        };
        let code = failure.as_ref().and_then(|failure| failure.code);
        let message = failure.map(|failure| failure.message);
        Self { check, result, code, message, expected: Vec::new(), found: Vec::new() }
    }

    /// A check that was not made, and the reason.
    pub fn not_made(check: &'static str, why: impl Into<String>) -> Self {
        let message = Some(why.into());
        Self { message, result: CheckResult::NotChecked, ..Self::made(check, Ok(())) }
    }

    /// Adds a note to a check that passed.
    #[must_use]
    pub fn noted(self, code: Code) -> Self {
        Self { code: Some(code), ..self }
    }

    /// Sets what was demanded.
    #[must_use]
    pub fn expected(mut self, expected: impl IntoIterator<Item = String>) -> Self {
        self.expected = expected.into_iter().collect();
        self
    }

    /// Sets the values that were found.
    #[must_use]
    pub fn found(mut self, found: impl IntoIterator<Item = String>) -> Self {
        self.found = found.into_iter().collect();
        self
    }
}

impl Item for Check {
    const COLUMNS: &'static [&'static str] = &["CHECK", "RESULT", "CODE", "FOUND", "MESSAGE"];
    const IS_ON_HOST: bool = false;
    const WRAPPED: &'static [&'static str] = &["MESSAGE", "FOUND"];
    const DROPPED: &'static [&'static str] = &["FOUND", "CODE"];

    fn key(&self) -> Cow<'_, str> {
        self.check.into()
    }

    fn row(&self) -> Vec<String> {
        let result = match self.result {
            CheckResult::Passed => "passed",
            CheckResult::Failed => "FAILED",
            CheckResult::NotChecked => "not checked",
        };
        vec![
            self.check.to_owned(),
            result.to_owned(),
            self.code.map(|code| code.as_str().to_owned()).unwrap_or_default(),
            self.found.join(","),
            self.message.clone().unwrap_or_default(),
        ]
    }

    fn table_order(&self) -> u8 {
        let place = ORDER.iter().position(|check| *check == self.check);
        place.and_then(|place| u8::try_from(place).ok()).unwrap_or(u8::MAX)
    }
}
