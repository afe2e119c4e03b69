//! The filters of `scan`.

use std::str::FromStr;

use clap::Args;

use crate::inventory::class::Class;
use crate::inventory::device::Device;

/// Which devices. Different filters must all hold; of one that is given several times, any.
#[derive(Debug, Args)]
pub(crate) struct Filter {
    /// Class, from its first two digits on: 03, 0302 or 030200
    #[arg(long, value_name = "CLASS")]
    class: Vec<ClassPrefix>,
    /// Vendor id: 10de
    #[arg(long, value_name = "ID", value_parser = id)]
    vendor: Vec<u16>,
    /// Device id: 2330
    #[arg(long, value_name = "ID", value_parser = id)]
    device: Vec<u16>,
    /// Vendor and device id: 10de:2330
    #[arg(long, value_name = "V:D", value_parser = pair)]
    id: Vec<(u16, u16)>,
    /// The driver that is bound; none for devices without one
    #[arg(long, value_name = "NAME")]
    driver: Vec<String>,
    /// Number of the IOMMU group
    #[arg(long, value_name = "N")]
    group: Vec<u32>,
    /// Only devices that a driver of the host has
    #[arg(long, conflicts_with = "free")]
    in_use: bool,
    /// Only devices that no driver has, or one of VFIO's
    #[arg(long)]
    free: bool,
}

impl Filter {
    pub(crate) fn lets_through(&self, device: &Device) -> bool {
        let driver = device.driver.as_deref().unwrap_or("none");
        any(&self.class, |class| device.class.is_some_and(|c| class.matches(c)))
            && any(&self.vendor, |vendor| device.vendor == Some(*vendor))
            && any(&self.device, |id| device.device == Some(*id))
            && any(&self.id, |(v, d)| (device.vendor, device.device) == (Some(*v), Some(*d)))
            && any(&self.driver, |name| name == driver)
            && any(&self.group, |group| device.group == Some(*group))
            && (!self.in_use || device.in_use())
            && (!self.free || !device.in_use())
    }
}

fn any<T>(wanted: &[T], holds: impl Fn(&T) -> bool) -> bool {
    wanted.is_empty() || wanted.iter().any(holds)
}

/// The first digits of a class code: of its base, of its class, or all six.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClassPrefix {
    value: u32,
    /// How many of the 24 bits are left open.
    open: u32,
}

impl ClassPrefix {
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
            _ => Err("a class is two, four or six hexadecimal digits, such as 03 or 0302".into()),
        }
    }
}

pub(crate) fn id(text: &str) -> Result<u16, String> {
    let digits = text.strip_prefix("0x").unwrap_or(text);
    let number = hex(digits).filter(|_| digits.len() <= 4).map(|number| number as u16);
    number.ok_or_else(|| "an id is up to four hexadecimal digits, such as 10de".to_owned())
}

pub(crate) fn pair(text: &str) -> Result<(u16, u16), String> {
    let (vendor, device) = text.split_once(':').ok_or("write vendor:device, such as 10de:2330")?;
    Ok((id(vendor)?, id(device)?))
}

fn hex(digits: &str) -> Option<u32> {
    // from_str_radix alone would take a leading plus.
    digits.bytes().all(|b| b.is_ascii_hexdigit()).then(|| u32::from_str_radix(digits, 16).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_and_classes_are_read() {
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
        assert_eq!((id("10DE"), id("0x8086"), id("1")), (Ok(0x10de), Ok(0x8086), Ok(1)));
        for text in ["", "0x", "10de0", "nvidia", "+1", "-1"] {
            assert!(id(text).is_err(), "{text}");
        }
        assert_eq!(pair("10de:2330"), Ok((0x10de, 0x2330)));
        for text in ["10de", "10de:", ":2330", "10de:2330:1", ""] {
            assert!(pair(text).is_err(), "{text}");
        }
    }
}
