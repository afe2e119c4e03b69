//! The first event of a log that does not fit, and how it differs.

use schemars::JsonSchema;
use serde::Serialize;

use crate::event_log::describe;
use crate::event_log::log::LoggedEvent;
use crate::prediction::ExpectedEvent;
use crate::register::{Digest, Register};

/// How a log differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// The event was added: it is not expected.
    Added,
    /// The event has another digest than expected.
    Changed,
    /// The digest of the event does not follow from the event's data, as the event's type requires.
    Contradicted,
    /// An expected event is missing before the event.
    Missing,
    /// The event is expected in another place.
    Moved,
    /// The register has another value than expected. Which event differs is unknown.
    Register,
}

/// The first difference of a register.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Difference {
    /// The index of the event in the log. Null when an event is missing at the end of the log, and when only the
    /// register is known to differ.
    pub index: Option<usize>,
    /// The register.
    pub register: Register,
    /// How the log differs.
    pub change: Change,
    /// The expected digest of the event, in hexadecimal digits; null for an event that is not expected. When only the
    /// register is known to differ: the expected value of the register.
    pub expected: Option<String>,
    /// The digest of the event in the log, in hexadecimal digits; null for an event that is missing from the log. When
    /// only the register is known to differ: the value of the register.
    pub found: Option<String>,
    /// The difference in words.
    pub description: String,
}

impl Difference {
    /// A difference at an event of the log.
    pub(crate) fn at(
        event: &LoggedEvent<'_>,
        change: Change,
        expected: Option<Digest>,
        description: String,
    ) -> Self {
        Self {
            index: Some(event.index),
            register: event.register,
            change,
            expected: expected.map(|digest| digest.to_string()),
            found: Some(event.digest.to_string()),
            description,
        }
    }

    fn added(event: &LoggedEvent<'_>) -> Self {
        let description = format!("{} is not expected", name(event));
        Self::at(event, Change::Added, None, description)
    }

    fn changed(event: &LoggedEvent<'_>, expected: &ExpectedEvent) -> Self {
        let description =
            format!("{} has another digest than the expected event {expected}", name(event));
        Self::at(event, Change::Changed, expected.digest, description)
    }

    fn moved(event: &LoggedEvent<'_>, expected: Option<Digest>) -> Self {
        let description = format!("{} is expected in another place", name(event));
        Self::at(event, Change::Moved, expected, description)
    }

    /// An expected event that the log lacks. `next` is the event of the log in its place.
    fn missing(
        register: Register,
        next: Option<&LoggedEvent<'_>>,
        expected: &ExpectedEvent,
    ) -> Self {
        let place = match next {
            Some(next) => format!("before {}", name(next)),
            None => "at the end".to_owned(),
        };
        Self {
            index: next.map(|event| event.index),
            register,
            change: Change::Missing,
            expected: expected.digest.map(|digest| digest.to_string()),
            found: None,
            description: format!("the log lacks the expected event {expected} {place}"),
        }
    }
}

/// An event in messages: its index, and its text or its type.
pub(crate) fn name(event: &LoggedEvent<'_>) -> String {
    let text = describe::text(event).unwrap_or_else(|| event.event_type.to_string());
    let short: String = text.chars().take(60).collect();
    let dots = if short.len() < text.len() { "…" } else { "" };
    format!("event {} ({short}{dots})", event.index)
}

/// The first difference between a register's events and all events that are expected in the register.
pub fn from_all(
    register: Register,
    events: &[LoggedEvent<'_>],
    expected: &[ExpectedEvent],
) -> Option<Difference> {
    let same = |(event, expected): &(&LoggedEvent<'_>, &ExpectedEvent)| {
        expected.digest.is_none_or(|digest| digest == event.digest)
    };
    let at = events.iter().zip(expected).take_while(same).count();
    let (event, wanted) = match (events.get(at), expected.get(at)) {
        (None, None) => return None,
        (Some(event), None) => return Some(Difference::added(event)),
        (None, Some(wanted)) => return Some(Difference::missing(register, None, wanted)),
        (Some(event), Some(wanted)) => (event, wanted),
    };
    let (rest, wanted_rest) = (&events[at + 1..], &expected[at + 1..]);
    let is = |event: Option<&LoggedEvent<'_>>, expected: Option<&ExpectedEvent>| {
        event.zip(expected).is_some_and(|(event, expected)| expected.digest == Some(event.digest))
    };
    let is_rest_same =
        rest.len() == wanted_rest.len() && rest.iter().zip(wanted_rest).all(|e| same(&e));
    let (is_next, is_next_wanted) =
        (is(rest.first(), Some(wanted)), is(Some(event), wanted_rest.first()));
    Some(match (is_next, is_next_wanted) {
        _ if is_rest_same => Difference::changed(event, wanted),
        (true, true) => Difference::moved(event, wanted.digest),
        (true, false) => Difference::added(event),
        (false, true) => Difference::missing(register, Some(event), wanted),
        (false, false) => Difference::changed(event, wanted),
    })
}

/// The first difference between a register's events and some events that are expected in the register, in this order.
/// Other events may stand between them.
pub fn from_some(
    register: Register,
    events: &[LoggedEvent<'_>],
    expected: &[ExpectedEvent],
) -> Option<Difference> {
    let mut from = 0;
    for (number, wanted) in expected.iter().enumerate() {
        let Some(digest) = wanted.digest else { continue };
        let position = |digest: Digest| events[from..].iter().position(|e| e.digest == digest);
        if let Some(offset) = position(digest) {
            from += offset + 1;
            continue;
        }
        if let Some(event) = events[..from].iter().find(|event| event.digest == digest) {
            return Some(Difference::moved(event, None));
        }
        // The event would stand before the next expected event.
        let later = expected[number + 1..].iter().filter_map(|event| event.digest);
        let end = later.filter_map(position).next().unwrap_or(events.len() - from);
        let mut between = events[from..from + end].iter();
        return Some(match between.find(|event| may_be(event, wanted)) {
            Some(event) => Difference::changed(event, wanted),
            None => Difference::missing(register, events.get(from + end), wanted),
        });
    }
    None
}

/// Whether an event of the log, with another digest, may stand for an expected event: both are of the UEFI variable with
/// the same name, or none of them is of a variable.
fn may_be(event: &LoggedEvent<'_>, expected: &ExpectedEvent) -> bool {
    let variable = describe::variable(event.data).filter(|_| event.event_type.has_variable());
    variable.map(|variable| variable.name) == expected.variable
}

#[cfg(test)]
#[path = "difference_tests.rs"]
mod tests;
