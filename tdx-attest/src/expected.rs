//! The expected values of registers, from a document of `tdx-attest measure` or from items of the same form.

use std::collections::BTreeMap;
use std::fmt::{self, Display, Formatter};
use std::path::Path;

use common::document::input;
use common::{Error, Result};
use serde::Deserialize;

use crate::register::{Digest, Register};

/// The most that is read of a file with expected values. Unit: bytes.
const LIMIT: usize = 64 << 20;

/// The expected value of each register. A register without an entry is not compared. A register whose value is none
/// was not predicted.
#[derive(Debug, Default)]
pub struct Expected(pub BTreeMap<Register, Option<Vec<u8>>>);

/// The expected events of each register, in order. A register without an entry has no expected events.
///
/// If the register has an expected value, these are all of its events. Otherwise they are the ones that were predicted:
/// other events may stand before, between and after them.
#[derive(Debug, Default)]
pub struct ExpectedEvents(pub BTreeMap<Register, Vec<ExpectedEvent>>);

impl ExpectedEvents {
    /// Whether any event has a digest that an event log can be compared with.
    pub fn has_digests(&self) -> bool {
        self.0.values().flatten().any(|event| event.digest.is_some())
    }
}

/// An expected event of a register.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExpectedEvent {
    /// What is measured, such as `variable PK`.
    pub description: String,
    /// The digest; none if it was not predicted.
    pub digest: Option<Digest>,
}

impl Display for ExpectedEvent {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "({})", self.description)
    }
}

#[derive(Debug, Deserialize)]
struct Item {
    register: Register,
    // A document has every key: an absent one is misspelt, and not a value that was not predicted.
    #[serde(deserialize_with = "Option::deserialize")]
    value: Option<String>,
    #[serde(default)]
    events: Vec<EventItem>,
}

#[derive(Debug, Deserialize)]
struct EventItem {
    description: String,
    digest: Option<String>,
}

impl Expected {
    /// Reads expected values and expected events from a file, or from standard input if the path is `-`.
    ///
    /// Errors: those of [`input::items_from`]; `invalid_input` for a value that is not hexadecimal or of another
    /// length than the register, for a register with two values, and for a digest that is not 96 hexadecimal digits.
    pub fn read_with_events(path: &Path) -> Result<(Self, ExpectedEvents)> {
        let expected = "the output of tdx-attest measure";
        let items = input::items_from(path, LIMIT, &["tdx.attest.measurements"], expected)?;
        Self::from_items(items, path)
    }

    fn from_items(items: Vec<Item>, path: &Path) -> Result<(Self, ExpectedEvents)> {
        let (mut values, mut all_events) = (BTreeMap::new(), BTreeMap::new());
        for Item { register, value, events } in items {
            let value = value.map(|value| bytes(register, &value)).transpose()?;
            let former = values.insert(register, value);
            if former.is_some() {
                let message = format!("{} contains two values of {register}", path.display());
                return Err(Error::invalid_input(message));
            }
            let events = events.into_iter().map(|event| event.read(register));
            all_events.insert(register, events.collect::<Result<_>>()?);
        }
        Ok((Self(values), ExpectedEvents(all_events)))
    }
}

impl EventItem {
    fn read(self, register: Register) -> Result<ExpectedEvent> {
        let Self { description, digest } = self;
        let digest = digest.map(|digits| {
            Digest::from_hex(&digits).ok_or_else(|| {
                Error::invalid_input(format!(
                    "the expected digest of event {description:?} of {register} is not 96 hexadecimal digits: {digits:?}"
                ))
            })
        });
        Ok(ExpectedEvent { description, digest: digest.transpose()? })
    }
}

/// The bytes that a register's value in hexadecimal digits stands for.
fn bytes(register: Register, value: &str) -> Result<Vec<u8>> {
    let bytes = common::text::from_hex(value).filter(|bytes| bytes.len() == register.size());
    bytes.ok_or_else(|| {
        Error::invalid_input(format!(
            "the expected value of {register} is not {} hexadecimal digits: {value:?}",
            2 * register.size()
        ))
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Reads a file with this text.
    fn read(text: &str) -> Result<(Expected, ExpectedEvents)> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        Expected::read_with_events(file.path())
    }

    #[test]
    fn values_and_events_are_read() {
        let (zero, one) = ("0".repeat(96), "1".repeat(96));
        let text = format!(
            r#"{{"register":"mrtd","value":"{one}","events":[]}}
            {{"register":"attributes","value":"0000001000000000"}}
            {{"register":"rtmr0","value":null,"events":[
                {{"description":"TD HOB","digest":"{zero}","certainty":"exact"}},
                {{"description":"variable PK","digest":null}}]}}"#
        );
        let (Expected(values), ExpectedEvents(events)) = read(&text).unwrap();
        assert_eq!(values[&Register::Mrtd], Some(vec![0x11; 48]));
        assert_eq!(values[&Register::Attributes], Some(vec![0, 0, 0, 16, 0, 0, 0, 0]));
        assert_eq!((&values[&Register::Rtmr0], values.get(&Register::Rtmr1)), (&None, None));
        let event = |description: &str, digest| {
            let description = description.to_owned();
            ExpectedEvent { description, digest }
        };
        let wanted = [event("TD HOB", Some(Digest::ZERO)), event("variable PK", None)];
        assert_eq!(events[&Register::Rtmr0], wanted);
        assert!(events[&Register::Mrtd].is_empty());
    }

    #[test]
    fn other_values_are_invalid_input() {
        for (text, says) in [
            (r#"[{"register":"rtmr9","value":null}]"#, "item 1 in"),
            (r#"[{"register":"rtmr0"}{"register":"rtmr0"}]"#, "is not JSON"),
            (
                r#"[{"register":"rtmr0","value":null},{"register":"rtmr0","value":null}]"#,
                "contains two values of rtmr0",
            ),
            (r#"[{"register":"attributes","value":"00"}]"#, "is not 16 hexadecimal digits"),
            (r#"[{"register":"rtmr0","events":[{"digest":null}]}]"#, "item 1 in"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.message().contains(says), "{text} {error}");
        }
    }

    proptest! {
        #[test]
        fn no_items_make_read_panic(
            items in proptest::collection::vec(
                (
                    prop::sample::select(Register::ALL.to_vec()),
                    prop::option::of("[0-9a-fA-F]{16}|[0-9a-f]{96}|\\PC{0,20}"),
                    proptest::collection::vec(prop::option::of("[0-9a-f]{96}|\\PC{0,20}"), 0..3),
                ),
                0..6,
            ),
        ) {
            let item = |(register, value, digests): (Register, _, Vec<_>)| {
                let event = |digest| EventItem { description: "event".to_owned(), digest };
                Item { register, value, events: digests.into_iter().map(event).collect() }
            };
            let items: Vec<Item> = items.into_iter().map(item).collect();
            let count = items.len();
            if let Ok((values, events)) = Expected::from_items(items, Path::new("expected.json")) {
                prop_assert_eq!((values.0.len(), events.0.len()), (count, count));
                for (register, value) in values.0 {
                    prop_assert!(value.is_none_or(|value| value.len() == register.size()));
                }
            }
        }
    }
}
