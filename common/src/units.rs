//! Reads and shows sizes and numbers as people write them.

use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, de};

/// A number of bytes.
///
/// Parsed as in libvirt and QEMU: a number without a unit is bytes, `K M G T` and `KiB…` are powers of 1024,
/// `KB…` are powers of 1000. A fraction such as `1.5G` is accepted if it is a whole number of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

/// One GiB, in bytes.
pub const GIB: u64 = 1 << 30;

/// The valid sizes of a guest's memory. Unit: bytes. Source: Intel SDM volume 3A, 4.1.4: physical addresses have at
/// most 52 bits.
pub const MEMORY: RangeInclusive<u64> = 1 << 20..=1 << 52;

/// The valid sizes of a guest's disk. Unit: bytes. Source: QEMU `block/qcow2.h`: an L1 table of 32 MiB with clusters
/// of 64 KiB covers 2 EiB.
pub const DISK: RangeInclusive<u64> = 1 << 20..=1 << 61;

/// A parser for command lines, of a size in a given range.
pub fn size_in(
    range: RangeInclusive<u64>,
) -> impl Fn(&str) -> Result<Size, String> + Clone + Send + Sync + 'static {
    move |text| {
        let size: Size = text.parse()?;
        match range.contains(&size.0) {
            true => Ok(size),
            false => {
                let (least, most) = (Size(*range.start()), Size(*range.end()));
                Err(format!("{size} is not between {least} and {most}"))
            }
        }
    }
}

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let (number, unit) = text.split_at(split);
        let unit = unit.trim().to_ascii_lowercase();
        let (base, prefix) = match unit.strip_suffix("ib").or_else(|| unit.strip_suffix('b')) {
            Some(prefix) if unit.ends_with("ib") && !prefix.is_empty() => (1024, prefix),
            Some(prefix) if !unit.ends_with("ib") => (1000, prefix),
            None => (1024, unit.as_str()),
            Some(_) => return Err(not_a_size(text)),
        };
        let power = ["", "k", "m", "g", "t", "p"].iter().position(|p| *p == prefix);
        let factor = power.map(|power| u128::pow(base, power as u32));
        let bytes = factor.and_then(|factor| scale(number, factor)).ok_or_else(|| not_a_size(text));
        bytes.and_then(|bytes| {
            u64::try_from(bytes).map(Self).map_err(|_| format!("{text} does not fit in 64 bits"))
        })
    }
}

fn not_a_size(text: &str) -> String {
    format!("{text:?} is not a size: write 8G, 512MiB or a number of bytes")
}

/// `number * factor` for a decimal number; none when the product is not a whole number.
fn scale(number: &str, factor: u128) -> Option<u128> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() || whole.len() > 20 || fraction.len() > 9 || number.ends_with('.') {
        return None;
    }
    let denominator = 10u128.pow(fraction.len() as u32);
    let digits: u128 = format!("{whole}{fraction}").parse().ok()?;
    let scaled = digits * factor;
    scaled.is_multiple_of(denominator).then(|| scaled / denominator)
}

impl fmt::Display for Size {
    /// The size in the largest binary unit, rounded to three digits: `7.91 GiB`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
        let power = (self.0.max(1).ilog2() / 10) as usize;
        let value = self.0 as f64 / (1u64 << (10 * power)) as f64;
        let decimals = match value {
            _ if value.fract() == 0.0 || value >= 99.95 => 0,
            _ if value >= 9.995 => 1,
            _ => 2,
        };
        write!(f, "{value:.decimals$} {}", units[power])
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Size;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a size such as 8G or a number of bytes")
            }
            fn visit_u64<E: de::Error>(self, bytes: u64) -> Result<Size, E> {
                Ok(Size(bytes))
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Size, E> {
                text.parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

/// Parses a hexadecimal number, with or without 0x.
pub fn hex_u64(text: &str) -> Option<u64> {
    let digits = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")).unwrap_or(text);
    let good = digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    good.then(|| u64::from_str_radix(digits, 16).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_is_parsed_with_any_unit() {
        for (text, bytes) in [
            ("0", 0),
            ("512", 512),
            ("8G", 8 << 30),
            ("8g", 8 << 30),
            ("8GiB", 8 << 30),
            ("8 GiB", 8 << 30),
            ("8GB", 8_000_000_000),
            ("1.5K", 1536),
            ("100b", 100),
            ("2T", 2 << 40),
        ] {
            assert_eq!(text.parse(), Ok(Size(bytes)), "{text}");
        }
        for text in ["", "G", "8X", "-1", "1e9", "8iB", "1.0001K", ".5G", "1.G", "99999999999P"] {
            assert!(text.parse::<Size>().is_err(), "{text}");
        }
    }

    #[test]
    fn size_in_refuses_a_size_outside_the_range() {
        let memory = size_in(MEMORY);
        assert_eq!(memory("4P"), Ok(Size(1 << 52)));
        for text in ["0", "1048575", "4503599627370497", "18446744073709551615", "16E"] {
            assert!(memory(text).is_err(), "{text}");
        }
        assert_eq!(memory("8P").unwrap_err(), "8 PiB is not between 1 MiB and 4 PiB");
    }

    #[test]
    fn a_size_is_shown_with_three_digits() {
        for (bytes, text) in [
            (0, "0 B"),
            (1, "1 B"),
            (1536, "1.50 KiB"),
            (8 << 30, "8 GiB"),
            (8_493_465_600, "7.91 GiB"),
            (u64::MAX, "16 EiB"),
        ] {
            assert_eq!(Size(bytes).to_string(), text);
        }
    }
}
