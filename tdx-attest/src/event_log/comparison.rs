//! Compares a log with a quote and with expected values, register by register.

use common::Code;
use common::td_quote::TdReport;
use common::text::hex;
use schemars::JsonSchema;
use serde::Serialize;

use crate::event_log::difference::{self, Change, Difference};
use crate::event_log::edit::{self, Edit};
use crate::event_log::log::{EventLog, LoggedEvent};
use crate::event_log::replay::replay;
use crate::event_log::text::{TextStatus, required_digests};
use crate::prediction::{ExpectedEvent, ExpectedRegister, Prediction};
use crate::register::{Digest, Register};

/// What a log is compared with.
#[derive(Debug, Default)]
pub struct Reference<'a> {
    /// The report in a quote.
    pub quote: Option<TdReport<'a>>,
    /// The expected values and events.
    pub prediction: Option<&'a Prediction>,
    /// Whether the log must give RTMR3 of the quote. Programs of the guest can extend RTMR3 without an entry in the
    /// log.
    pub requires_rtmr3: bool,
}

/// The result of the comparisons of a register.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ComparisonResult {
    /// Everything that was compared is the same.
    Match,
    /// Something differs.
    Differs,
    /// The log does not give RTMR3 of the quote, and was not required to.
    Unlogged,
    /// No value of the register is expected, because it could not be predicted. Nothing that was compared differs.
    NotPredicted,
    /// There was nothing to compare the register with.
    NotCompared,
}

impl ComparisonResult {
    /// The name of the result in documents.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Match => "match",
            Self::Differs => "differs",
            Self::Unlogged => "unlogged",
            Self::NotPredicted => "not_predicted",
            Self::NotCompared => "not_compared",
        }
    }
}

/// A register of a log, compared.
#[derive(Debug)]
pub struct Comparison<'a> {
    /// The register.
    pub register: Register,
    /// The value computed from the log; none for a register that no event extends.
    pub value: Option<Digest>,
    /// The value in the quote.
    pub quote: Option<Vec<u8>>,
    /// The expected value; none if it is not known.
    pub expected: Option<Vec<u8>>,
    /// The result.
    pub result: ComparisonResult,
    /// The codes of what was found, sorted.
    pub codes: Vec<Code>,
    /// The first difference.
    pub first_difference: Option<Difference>,
    /// The events of the register.
    pub events: Vec<LoggedEvent<'a>>,
}

/// Compares RTMR0 to RTMR3 of a log, and the other registers of the quote for which a value is expected.
pub fn compare<'a>(log: &EventLog<'a>, reference: &Reference<'_>) -> Vec<Comparison<'a>> {
    let is_expected = |register: &Register| {
        reference.prediction.is_some_and(|prediction| prediction.0.contains_key(register))
    };
    let registers = Register::ALL.into_iter();
    let compared = registers.filter(|register| register.is_rtmr() || is_expected(register));
    compared
        .map(|register| compare_register(register, log.events_of(register), reference))
        .collect()
}

fn compare_register<'a>(
    register: Register,
    events: Vec<LoggedEvent<'a>>,
    reference: &Reference<'_>,
) -> Comparison<'a> {
    let digests = events.iter().map(|event| event.digest);
    let value = register.is_rtmr().then(|| replay(Digest::ZERO, digests));
    let quote = reference.quote.as_ref().map(|quote| register.value_in(quote).to_vec());
    let expected = reference.prediction.and_then(|prediction| prediction.0.get(&register));

    let is_in_quote = same(value, quote.as_deref());
    // An expected event of RTMR3 is proved by the quote alone, because the log is not signed.
    let is_free = register == Register::Rtmr3
        && !reference.requires_rtmr3
        && !expected.is_some_and(ExpectedRegister::has_digests);
    let is_unlogged = is_in_quote == Some(false) && is_free;
    // What the programs of the guest measured is in the quote only.
    let found = match value.filter(|_| !is_unlogged) {
        Some(value) => Some(value.0.to_vec()),
        None => quote.clone(),
    };
    // Of two findings about the same event, the first is reported.
    let contradiction = contradiction(&events).map(|found| (Code::EventDiffers, found));
    let differs = expected
        .and_then(|expected| from_prediction(register, &events, expected, found.as_deref()));
    let mut findings: Vec<_> = contradiction.into_iter().chain(differs).collect();
    if let (Some(false), false, Some(quote)) = (is_in_quote, is_unlogged, &quote) {
        findings.push(from_quote(register, &events, quote));
    }

    let is_compared = is_in_quote.is_some() || (expected.is_some() && found.is_some());
    let result = match (findings.is_empty(), expected.map(|expected| &expected.value)) {
        (false, _) => ComparisonResult::Differs,
        (true, _) if is_unlogged => ComparisonResult::Unlogged,
        (true, Some(None)) => ComparisonResult::NotPredicted,
        (true, _) if is_compared => ComparisonResult::Match,
        (true, _) => ComparisonResult::NotCompared,
    };
    let mut codes: Vec<Code> = findings.iter().map(|(code, _)| *code).collect();
    codes.extend(is_unlogged.then_some(Code::Rtmr3Unlogged));
    codes.sort();
    codes.dedup();
    let differences = findings.into_iter().map(|(_, difference)| difference);
    let first_difference = differences.min_by_key(|found| found.index.unwrap_or(usize::MAX));
    let expected = expected.and_then(|expected| expected.value.clone());
    Comparison { register, value, quote, expected, result, codes, first_difference, events }
}

/// Whether the log's value of a register is the given one; none without one of the two.
fn same(value: Option<Digest>, other: Option<&[u8]>) -> Option<bool> {
    Some(value?.0.as_slice() == other?)
}

/// The first event whose data contradicts its digest.
fn contradiction(events: &[LoggedEvent<'_>]) -> Option<Difference> {
    let event = events.iter().find(|e| TextStatus::of(e) == TextStatus::Contradicted)?;
    let required = required_digests(event).last().copied();
    let description =
        format!("the digest of {} does not follow from its data", difference::name(event));
    Some(Difference::at(event, Change::Contradicted, required, description))
}

/// The difference between a register's events and its value in the quote, with its code.
fn from_quote(register: Register, events: &[LoggedEvent<'_>], quote: &[u8]) -> (Code, Difference) {
    match edited(events, quote, "the value in the quote") {
        Some(difference) => (Code::EventDiffers, difference),
        None => {
            let value = replay(Digest::ZERO, events.iter().map(|event| event.digest));
            let description = format!(
                "the value of {register} computed from the log differs from the value in the quote; which event differs is unknown"
            );
            (Code::LogIncomplete, only_register(register, quote, &value.0, description))
        }
    }
}

/// The difference between a register and what is expected of it, with its code. `found` is the value of the register, if
/// there is one.
fn from_prediction(
    register: Register,
    events: &[LoggedEvent<'_>],
    expected: &ExpectedRegister,
    found: Option<&[u8]>,
) -> Option<(Code, Difference)> {
    let known = &expected.events;
    let Some(value) = &expected.value else {
        return difference::from_some(register, events, known).map(|d| (Code::EventDiffers, d));
    };
    let found = found.filter(|found| found != value)?;
    Some(match expected.page_order_mismatch(found) {
        Some(why) => (Code::MrtdPageOrder, only_register(register, value, found, why)),
        None => (Code::EventDiffers, from_expected(register, events, known, value, found)),
    })
}

/// The difference between a register and its expected value. `known` are its expected events, if there are any.
fn from_expected(
    register: Register,
    events: &[LoggedEvent<'_>],
    known: &[ExpectedEvent],
    expected: &[u8],
    found: &[u8],
) -> Difference {
    let named = match known {
        [] => edited(events, expected, "the expected value"),
        known => difference::from_all(register, events, known),
    };
    named.unwrap_or_else(|| {
        let description = format!("{register} has another value than expected");
        only_register(register, expected, found, description)
    })
}

/// The one event that keeps the log from giving a register value; none if no event can be named.
fn edited(events: &[LoggedEvent<'_>], value: &[u8], of: &str) -> Option<Difference> {
    let value = Digest(value.try_into().ok()?);
    let edit = edit::find(events, value)?;
    let (Edit::EndBefore(at) | Edit::LeaveOut(at) | Edit::Exchange(at) | Edit::Digest(at, _)) =
        edit;
    let name = difference::name(&events[at]);
    let (change, expected, description) = match edit {
        Edit::EndBefore(_) => (
            Change::Added,
            None,
            format!("the log gives {of} only without {name} and the later events"),
        ),
        Edit::LeaveOut(_) => {
            (Change::Added, None, format!("the log gives {of} only without {name}"))
        }
        Edit::Exchange(next) => {
            let next = events[next + 1];
            let description = format!(
                "the log gives {of} only if {name} comes after {}",
                difference::name(&next)
            );
            (Change::Moved, Some(next.digest), description)
        }
        Edit::Digest(_, digest) => {
            let description =
                format!("the log gives {of} only if {name} has the digest of its own data");
            (Change::Changed, Some(digest), description)
        }
    };
    Some(Difference::at(&events[at], change, expected, description))
}

/// A difference of which only the register is known.
fn only_register(
    register: Register,
    expected: &[u8],
    found: &[u8],
    description: String,
) -> Difference {
    Difference {
        index: None,
        register,
        change: Change::Register,
        expected: Some(hex(expected)),
        found: Some(hex(found)),
        description,
    }
}

#[cfg(test)]
#[path = "comparison_tests.rs"]
mod tests;
