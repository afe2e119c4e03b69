//! The prediction of a trust domain that a quote or an event log is compared with: a document of `tdx-attest measure`, or
//! items of the same form.

use std::collections::BTreeMap;
use std::fmt::{self, Display, Formatter};
use std::path::Path;

use common::document::input;
use common::{Error, Result};
use serde::Deserialize;

use crate::measurement::ValueByPageOrder;
use crate::register::{Digest, Register};
use crate::tdvf::PageOrder;

/// The most that is read of a prediction. Unit: bytes.
const LIMIT: usize = 64 << 20;

/// What a relying party expects of the registers of a trust domain. A register without an entry is not compared.
#[derive(Debug, Default)]
pub struct Prediction(pub BTreeMap<Register, ExpectedRegister>);

/// What is expected of a register.
#[derive(Debug, Default)]
pub struct ExpectedRegister {
    /// The value; none if it was not predicted.
    pub value: Option<Vec<u8>>,
    /// The values of MRTD in both page orders; empty for another register, and if the prediction does not contain them.
    /// They explain why a value differs. `value` alone decides whether it differs.
    pub by_page_order: Vec<(PageOrder, Vec<u8>)>,
    /// The events, in order.
    ///
    /// If the register has an expected value, these are all of its events, or none is known. Otherwise they are the ones
    /// that were predicted: other events may stand before, between and after them.
    pub events: Vec<ExpectedEvent>,
}

/// An expected event of a register.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExpectedEvent {
    /// What is measured, such as `variable PK`.
    pub description: String,
    /// The name of the UEFI variable that is measured, such as `PK`; none for an event of another kind.
    pub variable: Option<String>,
    /// The digest; none if it was not predicted.
    pub digest: Option<Digest>,
}

impl ExpectedRegister {
    /// Whether any event has a digest that an event log can be compared with.
    pub fn has_digests(&self) -> bool {
        self.events.iter().any(|event| event.digest.is_some())
    }

    /// Why MRTD has another value than expected, if the page order of the host explains that. None if the value is the
    /// expected one, or is that of no page order.
    pub fn page_order_mismatch(&self, found: &[u8]) -> Option<String> {
        if self.value.as_deref()? == found {
            return None;
        }
        let (order, _) = self.by_page_order.iter().find(|(_, value)| value == found)?;
        Some(format!(
            "MRTD differs because the host measured the expected firmware in the other page order: run tdx-attest \
             measure with --page-order {order}"
        ))
    }
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
    value_by_page_order: Option<ValueByPageOrder>,
    #[serde(default)]
    events: Vec<EventItem>,
}

#[derive(Debug, Deserialize)]
struct EventItem {
    description: String,
    variable: Option<String>,
    digest: Option<String>,
}

impl Prediction {
    /// Reads a prediction from a file, or from standard input if the path is `-`.
    ///
    /// Errors: those of [`input::items_from`]; `invalid_input` for a value that is not hexadecimal or of another
    /// length than the register, for a register with two values, and for a digest that is not 96 hexadecimal digits.
    pub fn read(path: &Path) -> Result<Self> {
        let expected = "the output of tdx-attest measure";
        let items = input::items_from(path, LIMIT, &["tdx.attest.measurements"], expected)?;
        Self::from_items(items, path)
    }

    fn from_items(items: Vec<Item>, path: &Path) -> Result<Self> {
        let mut registers = BTreeMap::new();
        for item in items {
            let register = item.register;
            if registers.insert(register, item.read()?).is_some() {
                let message = format!("{} contains two values of {register}", path.display());
                return Err(Error::invalid_input(message));
            }
        }
        Ok(Self(registers))
    }

    /// The expected value of a register; none if no value is expected or if it was not predicted.
    pub fn value(&self, register: Register) -> Option<&[u8]> {
        self.0.get(&register)?.value.as_deref()
    }

    /// Whether any register has a value.
    pub fn has_values(&self) -> bool {
        self.0.values().any(|register| register.value.is_some())
    }

    /// Whether any event has a digest that an event log can be compared with.
    pub fn has_digests(&self) -> bool {
        self.0.values().any(ExpectedRegister::has_digests)
    }
}

impl Item {
    fn read(self) -> Result<ExpectedRegister> {
        let register = self.register;
        let value = self.value.map(|value| bytes(register, &value)).transpose()?;
        let orders = self.value_by_page_order.filter(|_| register == Register::Mrtd);
        let orders =
            orders.map(|by| [(PageOrder::Page, by.page), (PageOrder::Section, by.section)]);
        let orders = orders.into_iter().flatten();
        let by_page_order = orders.map(|(order, value)| Ok((order, bytes(register, &value)?)));
        let by_page_order = by_page_order.collect::<Result<_>>()?;
        let events = self.events.into_iter().map(|event| event.read(register));
        Ok(ExpectedRegister { value, by_page_order, events: events.collect::<Result<_>>()? })
    }
}

impl EventItem {
    fn read(self, register: Register) -> Result<ExpectedEvent> {
        let Self { description, variable, digest } = self;
        let digest = digest.map(|digits| {
            Digest::from_hex(&digits).ok_or_else(|| {
                Error::invalid_input(format!(
                    "the expected digest of event {description:?} of {register} is not 96 hexadecimal digits: {digits:?}"
                ))
            })
        });
        Ok(ExpectedEvent { digest: digest.transpose()?, description, variable })
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
    fn read(text: &str) -> Result<Prediction> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        Prediction::read(file.path())
    }

    #[test]
    fn values_and_events_are_read() {
        let (zero, one) = ("0".repeat(96), "1".repeat(96));
        let text = format!(
            r#"{{"register":"mrtd","value":"{one}","events":[]}}
            {{"register":"attributes","value":"0000001000000000"}}
            {{"register":"rtmr0","value":null,"events":[
                {{"description":"TD HOB","digest":"{zero}","certainty":"exact"}},
                {{"description":"variable PK","variable":"PK","digest":null}}]}}"#
        );
        let prediction = read(&text).unwrap();
        assert_eq!(prediction.value(Register::Mrtd), Some(&[0x11; 48][..]));
        let attributes = prediction.value(Register::Attributes);
        assert_eq!(attributes, Some(&[0, 0, 0, 16, 0, 0, 0, 0][..]));
        let rtmr0 = &prediction.0[&Register::Rtmr0];
        assert_eq!((&rtmr0.value, prediction.0.contains_key(&Register::Rtmr1)), (&None, false));
        let event = |description: &str, variable: Option<&str>, digest| {
            let (description, variable) = (description.to_owned(), variable.map(str::to_owned));
            ExpectedEvent { description, variable, digest }
        };
        let hob = event("TD HOB", None, Some(Digest::ZERO));
        assert_eq!(rtmr0.events, [hob, event("variable PK", Some("PK"), None)]);
        assert!(prediction.0[&Register::Mrtd].events.is_empty());
        assert!(prediction.has_values() && prediction.has_digests());
    }

    #[test]
    fn mrtd_in_the_other_page_order_differs_and_the_order_is_named() {
        let (page, section) = ("1".repeat(96), "2".repeat(96));
        let orders = format!(r#""value_by_page_order":{{"page":"{page}","section":"{section}"}}"#);
        let of = |value: &str, register: &str| {
            let text = format!(r#"{{"register":"{register}","value":"{value}",{orders}}}"#);
            read(&text).unwrap().0.into_values().next().unwrap()
        };
        let order = |expected: &ExpectedRegister, found: u8| {
            let why = expected.page_order_mismatch(&[found; 48])?;
            why.split_once("--page-order ").map(|(_, order)| order.to_owned())
        };
        let (by_page, by_section) = (of(&page, "mrtd"), of(&section, "mrtd"));
        assert_eq!((order(&by_page, 0x11), order(&by_section, 0x22)), (None, None));
        assert_eq!(order(&by_page, 0x22).as_deref(), Some("section"));
        assert_eq!(order(&by_section, 0x11).as_deref(), Some("page"));
        assert_eq!((order(&by_page, 0x33), order(&of(&page, "rtmr0"), 0x22)), (None, None));
        let alone = read(&format!(r#"{{"register":"mrtd","value":"{page}"}}"#)).unwrap();
        assert_eq!(order(&alone.0[&Register::Mrtd], 0x22), None);
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
            (
                r#"[{"register":"mrtd","value":null,"value_by_page_order":{"page":"","section":""}}]"#,
                "is not 96 hexadecimal digits",
            ),
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
                let event = |digest| EventItem {
                    description: "event".to_owned(),
                    variable: None,
                    digest,
                };
                Item { register, value, value_by_page_order: None, events: digests.into_iter().map(event).collect() }
            };
            let items: Vec<Item> = items.into_iter().map(item).collect();
            let count = items.len();
            if let Ok(Prediction(registers)) = Prediction::from_items(items, Path::new("expected.json")) {
                prop_assert_eq!(registers.len(), count);
                for (register, ExpectedRegister { value, .. }) in registers {
                    prop_assert!(value.is_none_or(|value| value.len() == register.size()));
                }
            }
        }
    }
}
