//! PCI addresses.

use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A PCI function's address: domain, bus, device and function (BDF).
///
/// Printed in full, as `0000:17:00.0`. The short form `17:00.0` is read as domain 0. Domains have up to 32 bits: Intel
/// VMD uses domains from `10000:` on.
/// Source: Linux `Documentation/ABI/testing/sysfs-bus-pci`; `pci_name()` in `drivers/pci/probe.c`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, JsonSchema)]
#[schemars(with = "String")]
pub struct Bdf {
    /// PCI domain (segment).
    pub domain: u32,
    /// Bus number.
    pub bus: u8,
    /// Device (slot) number, 0 to 31.
    pub device: u8,
    /// Function number, 0 to 7.
    pub function: u8,
}

impl FromStr for Bdf {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        parse(text)
            .ok_or_else(|| format!("{text:?} is not a PCI address such as 0000:17:00.0 or 17:00.0"))
    }
}

fn parse(text: &str) -> Option<Bdf> {
    let (address, function) = text.rsplit_once('.')?;
    let (bus, device) = address.rsplit_once(':')?;
    let (domain, bus) = bus.rsplit_once(':').unwrap_or(("0000", bus));
    if !(4..=8).contains(&domain.len()) || bus.len() != 2 || device.len() != 2 {
        return None;
    }
    let bdf = Bdf {
        domain: hex(domain)?,
        bus: hex(bus)?.try_into().ok()?,
        device: hex(device)?.try_into().ok()?,
        function: hex(function).filter(|_| function.len() == 1)?.try_into().ok()?,
    };
    (bdf.device < 32 && bdf.function < 8).then_some(bdf)
}

fn hex(digits: &str) -> Option<u32> {
    // from_str_radix alone would take a leading plus.
    digits.bytes().all(|b| b.is_ascii_hexdigit()).then(|| u32::from_str_radix(digits, 16).ok())?
}

impl fmt::Display for Bdf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { domain, bus, device, function } = self;
        write!(f, "{domain:04x}:{bus:02x}:{device:02x}.{function}")
    }
}

impl Serialize for Bdf {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Bdf {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_bdf_is_parsed_from_its_short_and_long_forms() {
        for (text, full) in [
            ("17:00.0", "0000:17:00.0"),
            ("0000:17:1f.7", "0000:17:1f.7"),
            ("10000:e1:00.0", "10000:e1:00.0"),
            ("0000:AB:0C.1", "0000:ab:0c.1"),
        ] {
            assert_eq!(text.parse::<Bdf>().unwrap().to_string(), full);
        }
    }

    #[test]
    fn other_text_is_not_a_bdf() {
        for text in [
            "",
            ":",
            ".",
            "17:00",
            "17.0",
            "0:17:00.0",
            "0000:17:20.0",
            "0000:17:00.8",
            "+7:00.0",
            "0000:17:00.00",
            "000000000:17:00.0",
            "0000:117:00.0",
            "0000:1g:00.0",
            "17:00.0 ",
            "0000-17:00.0",
            "0000:17:00.0.0",
            "１７:00.0",
        ] {
            assert!(text.parse::<Bdf>().is_err(), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn a_printed_bdf_is_parsed_to_the_same_bdf(domain: u32, bus: u8, device in 0u8..32, function in 0u8..8) {
            let bdf = Bdf { domain, bus, device, function };
            prop_assert_eq!(bdf.to_string().parse::<Bdf>(), Ok(bdf));
        }

        #[test]
        fn no_text_makes_a_bdf_panic(text in "\\PC*") {
            let _ = text.parse::<Bdf>();
        }
    }
}
