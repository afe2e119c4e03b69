//! Parses PCI ids and class codes that users write.

use std::str::FromStr;

use crate::inventory::class::Class;

/// The first two, four or six digits of a class code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClassPrefix {
    value: u32,
    /// How many of the 24 bits are not compared.
    open: u32,
}

impl ClassPrefix {
    /// Whether the class code begins with these digits.
    pub(crate) fn matches(self, class: Class) -> bool {
        class.0 >> self.open == self.value
    }
}

impl FromStr for ClassPrefix {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let digits = text.strip_prefix("0x").unwrap_or(text);
        match (digits.len(), hex(digits)) {
            (2 | 4 | 6, Some(value)) => Ok(Self { value, open: 24 - 4 * digits.len() as u32 }),
            _ => Err("a class has two, four or six hexadecimal digits, such as 03 or 0302".into()),
        }
    }
}

/// Parses a vendor or device id: `10de`, `0x10de`.
///
/// Errors: a description of a valid id.
pub(crate) fn parse_id(text: &str) -> Result<u16, String> {
    let digits = text.strip_prefix("0x").unwrap_or(text);
    let number = hex(digits).filter(|_| digits.len() <= 4).map(|number| number as u16);
    number.ok_or_else(|| "an id has one to four hexadecimal digits, such as 10de".to_owned())
}

/// Parses a vendor id and a device id: `10de:2330`.
///
/// Errors: a description of a valid pair.
pub(crate) fn parse_id_pair(text: &str) -> Result<(u16, u16), String> {
    let (vendor, device) = text.split_once(':').ok_or("write vendor:device, such as 10de:2330")?;
    Ok((parse_id(vendor)?, parse_id(device)?))
}

fn hex(digits: &str) -> Option<u32> {
    // from_str_radix alone would take a leading plus.
    digits.bytes().all(|b| b.is_ascii_hexdigit()).then(|| u32::from_str_radix(digits, 16).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_and_classes_are_parsed_only_from_hexadecimal_digits() {
        let class = |text: &str| text.parse::<ClassPrefix>().unwrap();
        for (text, yes, no) in [
            ("03", 0x030200, 0x040300),
            ("0302", 0x030200, 0x030000),
            ("0x0C03", 0x0c0330, 0x0c0500),
            ("030200", 0x030200, 0x030201),
        ] {
            assert!(class(text).matches(Class(yes)) && !class(text).matches(Class(no)), "{text}");
        }
        for text in ["", "3", "030", "0302000", "vga", "+3", "0x"] {
            assert!(text.parse::<ClassPrefix>().is_err(), "{text}");
        }
        assert_eq!(
            (parse_id("10DE"), parse_id("0x8086"), parse_id("1")),
            (Ok(0x10de), Ok(0x8086), Ok(1))
        );
        for text in ["", "0x", "10de0", "nvidia", "+1", "-1"] {
            assert!(parse_id(text).is_err(), "{text}");
        }
        assert_eq!(parse_id_pair("10de:2330"), Ok((0x10de, 0x2330)));
        for text in ["10de", "10de:", ":2330", "10de:2330:1", ""] {
            assert!(parse_id_pair(text).is_err(), "{text}");
        }
    }
}
