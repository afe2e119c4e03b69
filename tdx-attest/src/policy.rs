//! Policies: what a relying party demands of a quote.

use std::collections::BTreeMap;
use std::path::Path;

use common::document::input;
use common::td_quote::ReportData;
use common::{Error, Result, text, yaml};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

use crate::quote::verification::TcbStatus;
use crate::register::Register;
use crate::time::Time;

/// The most that is read of a file with a policy. Unit: bytes.
const LIMIT: usize = 1 << 20;

/// What is demanded of a quote, beside a valid signature. Without a key, its default is demanded.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Policy {
    /// The accepted states of the platform's TCB; by default `UpToDate` alone.
    #[serde(deserialize_with = "present")]
    pub accept_status: Option<Vec<TcbStatus>>,
    /// The oldest accepted date of the TCB level; by default any.
    #[serde(deserialize_with = "date")]
    pub min_tcb_date: Option<Time>,
    /// The accepted identifiers of advisories, such as `INTEL-SA-00837`; by default any.
    #[serde(deserialize_with = "present")]
    pub accept_advisories: Option<Vec<String>>,
    /// Which attributes of the trust domain must have which values.
    #[serde(deserialize_with = "present")]
    pub attributes: Option<Masked>,
    /// Which processor features (XFAM) must have which values.
    #[serde(deserialize_with = "present")]
    pub xfam: Option<Masked>,
    /// The values of registers.
    pub registers: BTreeMap<Register, Bytes>,
    /// The registers that must be compared with a value, from this policy or from expected values.
    pub required_registers: Vec<Register>,
    /// The report data: 1 to 64 bytes in hexadecimal digits. The bytes that are not given are zero.
    #[serde(deserialize_with = "report_data")]
    pub report_data: Option<ReportData>,
}

/// A value for the bits of a mask. In text, both are the bytes in the order of the quote, as documents print them.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Masked {
    /// The bits that must have the value.
    #[serde(deserialize_with = "number")]
    pub mask: u64,
    /// The value of these bits.
    #[serde(deserialize_with = "number")]
    pub value: u64,
}

/// Bytes that a text gives as hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bytes(pub Vec<u8>);

impl Policy {
    /// Reads a policy in YAML.
    ///
    /// Errors: those of [`input::file`]; `invalid_input` for text that is no policy, such as an unknown key.
    pub fn read(path: &Path) -> Result<Self> {
        let name = path.display().to_string();
        let text = String::from_utf8(input::file(path, LIMIT)?)
            .map_err(|error| Error::invalid_input(format!("{name} is not UTF-8")).because(error))?;
        Self::parse(&text, &name)
    }

    /// Parses a policy. `source` names the file in messages.
    ///
    /// Errors: `invalid_input` for text that is no policy.
    pub fn parse(text: &str, source: &str) -> Result<Self> {
        let invalid = || Error::invalid_input(format!("{source} is not a policy"));
        let policy: Self = yaml::from_str(text).map_err(|error| invalid().because(error))?;
        for (register, Bytes(value)) in &policy.registers {
            if value.len() != register.size() {
                let message = format!(
                    "registers.{register} is not {} hexadecimal digits",
                    2 * register.size()
                );
                return Err(invalid().because(message));
            }
        }
        for (key, masked) in [("attributes", policy.attributes), ("xfam", policy.xfam)] {
            if masked.is_some_and(|masked| masked.value & !masked.mask != 0) {
                let message = format!("{key}.value has a bit that is not in {key}.mask");
                return Err(invalid().because(message));
            }
        }
        if policy.accept_status.iter().flatten().any(|status| *status == TcbStatus::Revoked) {
            return Err(
                invalid().because("accept_status contains Revoked, which is never accepted")
            );
        }
        Ok(policy)
    }

    /// The keys of this policy that only collateral can answer.
    pub fn keys_about_tcb(&self) -> Vec<&'static str> {
        let keys = [
            ("accept_status", self.accept_status.is_some()),
            ("min_tcb_date", self.min_tcb_date.is_some()),
            ("accept_advisories", self.accept_advisories.is_some()),
        ];
        keys.into_iter().filter_map(|(key, is_set)| is_set.then_some(key)).collect()
    }

    /// The accepted states of the platform's TCB.
    pub fn statuses(&self) -> &[TcbStatus] {
        self.accept_status.as_deref().unwrap_or(&[TcbStatus::UpToDate])
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let digits = String::deserialize(deserializer)?;
        let bytes = text::from_hex(&digits).filter(|bytes| !bytes.is_empty());
        bytes.map(Self).ok_or_else(|| D::Error::custom("expected hexadecimal digits"))
    }
}

/// Reads the value of a key that is there. An empty value is an error: a demand must not vanish because a template left
/// its value empty.
fn present<'de, T: Deserialize<'de>, D: Deserializer<'de>>(d: D) -> Result<Option<T>, D::Error> {
    T::deserialize(d).map(Some)
}

/// Reads eight bytes in the order of the quote, in hexadecimal digits.
fn number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    let Bytes(bytes) = Bytes::deserialize(deserializer)?;
    let bytes = bytes.try_into().map_err(|_| D::Error::custom("expected 16 hexadecimal digits"))?;
    Ok(u64::from_le_bytes(bytes))
}

/// Reads report data.
fn report_data<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<ReportData>, D::Error> {
    String::deserialize(deserializer)?.parse().map(Some).map_err(D::Error::custom)
}

/// Reads a day, or a time of RFC 3339.
fn date<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Time>, D::Error> {
    let text = String::deserialize(deserializer)?;
    let time = Time::from_date(&text).or_else(|| Time::from_rfc3339(&text));
    time.map(Some).ok_or_else(|| D::Error::custom("expected a day such as 2024-11-13"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(text: &str) -> Policy {
        Policy::parse(text, "p.yaml").unwrap_or_else(|error| panic!("{text}: {:?}", error.causes()))
    }

    #[test]
    fn every_key_of_a_policy_is_read() {
        let mrtd = "ab".repeat(48);
        let policy = parse(&format!(
            "accept_status: [UpToDate, SWHardeningNeeded]\n\
             min_tcb_date: 2024-11-13\n\
             accept_advisories: [INTEL-SA-00837]\n\
             attributes: {{mask: ff00000000000080, value: 0000000000000080}}\n\
             xfam: {{mask: 0300000000000000, value: 0300000000000000}}\n\
             registers: {{mrtd: {mrtd}}}\n\
             required_registers: [mrtd, rtmr0]\n\
             report_data: 00ff\n"
        ));
        assert_eq!(policy.statuses(), [TcbStatus::UpToDate, TcbStatus::SWHardeningNeeded]);
        assert_eq!(policy.min_tcb_date, Time::from_date("2024-11-13"));
        assert_eq!(policy.accept_advisories.as_deref(), Some(&["INTEL-SA-00837".to_owned()][..]));
        let attributes = policy.attributes.unwrap();
        assert_eq!((attributes.mask, attributes.value), (0x8000_0000_0000_00ff, 1 << 63));
        assert_eq!(policy.registers[&Register::Mrtd], Bytes(vec![0xab; 48]));
        assert_eq!(policy.required_registers, [Register::Mrtd, Register::Rtmr0]);
        assert_eq!(policy.report_data.unwrap().0[..3], [0, 255, 0]);
        for text in ["", "# nothing\n"] {
            assert_eq!(parse(text).statuses(), [TcbStatus::UpToDate], "{text}");
        }
    }

    #[test]
    fn text_that_is_no_policy_is_refused_with_the_reason() {
        for (text, says) in [
            ("- UpToDate", "line 1: "),
            ("accept_status: [UpToDate]\nmin_date: 2024-11-13", "line 2: unknown field `min_date`"),
            ("accept_status: [Good]", "line 1: unknown variant `Good`"),
            ("accept_status: [Revoked]", "Revoked, which is never accepted"),
            ("min_tcb_date: soon", "line 1: expected a day such as 2024-11-13"),
            ("attributes: {mask: ff}", "line 1: "),
            ("attributes: {mask: ff, value: 00}", "line 1: expected 16 hexadecimal digits"),
            (
                "attributes: {mask: '0000000000000000', value: '0100000000000000'}",
                "attributes.value has a bit",
            ),
            ("registers: {mrtd: abcd}", "registers.mrtd is not 96 hexadecimal digits"),
            ("registers: {mrtd: xy}", "line 1: expected hexadecimal digits"),
            ("registers: {rtmr4: ab}", "line 1: unknown variant `rtmr4`"),
            ("report_data: ''", "line 1: expected 1 to 64 bytes"),
        ] {
            let error = Policy::parse(text, "p.yaml").unwrap_err();
            assert_eq!(error.message(), "p.yaml is not a policy", "{text}");
            assert!(error.causes()[0].contains(says), "{text}: {:?}", error.causes());
        }
    }

    #[test]
    fn a_key_without_a_value_is_refused() {
        for key in [
            "accept_status",
            "min_tcb_date",
            "accept_advisories",
            "attributes",
            "xfam",
            "registers",
            "required_registers",
            "report_data",
        ] {
            for value in ["", " null", " ~"] {
                let text = format!("{key}:{value}");
                assert!(Policy::parse(&text, "p.yaml").is_err(), "{text}");
            }
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_the_reader_of_policies_panic(
            text in "\\PC*",
            keys in proptest::collection::vec(
                proptest::sample::select(vec![
                    "accept_status:", "min_tcb_date:", "registers:", "report_data:", "attributes:", "mask:", "value:",
                    "mrtd:", " ", "\n", "[", "]", "{", "}", ",", "UpToDate", "00ff", "0000000000000000", "2024-11-13",
                ]),
                0..20,
            ),
        ) {
            let _ = Policy::parse(&text, "p.yaml");
            let _ = Policy::parse(&keys.concat(), "p.yaml");
        }
    }
}
