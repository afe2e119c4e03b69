//! Reads the names of vendors, devices and classes from the system's `pci.ids`.

use std::collections::{BTreeMap, BTreeSet};

use common::Result;
use common::system::sysroot::Host;

use crate::inventory::class::Class;
use crate::inventory::device::Device;

/// The paths of the list in distributions.
const FILES: [&str; 2] = ["/usr/share/misc/pci.ids", "/usr/share/hwdata/pci.ids"];

/// The names of the queried ids.
///
/// Source: pci.ids(5): one line per vendor, followed by its devices with one tab; `C` lines for classes.
#[derive(Debug, Default)]
pub struct PciNames {
    vendors: BTreeMap<u16, String>,
    devices: BTreeMap<(u16, u16), String>,
    classes: BTreeMap<u16, String>,
}

/// The ids to look up.
#[derive(Debug, Default)]
pub struct IdQuery {
    /// Vendor and device ids.
    pub devices: BTreeSet<(u16, u16)>,
    /// Base class and subclass.
    pub classes: BTreeSet<u16>,
}

impl IdQuery {
    /// The vendor, device and class ids of these devices.
    pub fn for_devices<'d>(devices: impl IntoIterator<Item = &'d Device>) -> Self {
        let mut query = Self::default();
        for device in devices {
            query.devices.extend(device.vendor.zip(device.device));
            query.classes.extend(device.class.map(Class::pair));
        }
        query
    }
}

impl PciNames {
    /// Looks up the queried ids in the system's list. Without a list, all names are unknown.
    ///
    /// Errors: `permission` or `io` when an existing list cannot be read.
    pub fn read(host: &Host, query: &IdQuery) -> Result<Self> {
        for file in FILES {
            if let Some(bytes) = host.read_bytes(file)? {
                return Ok(Self::parse(&String::from_utf8_lossy(&bytes), query));
            }
        }
        Ok(Self::default())
    }

    fn parse(text: &str, query: &IdQuery) -> Self {
        let vendors: BTreeSet<u16> = query.devices.iter().map(|(vendor, _)| *vendor).collect();
        let bases: BTreeSet<u8> = query.classes.iter().map(|class| (class >> 8) as u8).collect();
        let mut names = Self::default();
        let mut section = Section::None;
        for line in text.lines() {
            match line.as_bytes() {
                [] | [b'#', ..] | [b'\t', b'\t', ..] => {}
                [b'\t', ..] => names.add(section, &line[1..], query),
                [b'C', b' ', ..] => {
                    section = match entry(&line[2..]) {
                        Some((base, name)) if bases.contains(&(base as u8)) => {
                            for class in query.classes.iter().filter(|c| *c >> 8 == base) {
                                names.classes.insert(*class, name.to_owned());
                            }
                            Section::Class(base)
                        }
                        _ => Section::None,
                    };
                }
                _ => {
                    section = match entry(line) {
                        Some((vendor, name)) if vendors.contains(&vendor) => {
                            names.vendors.insert(vendor, name.to_owned());
                            Section::Vendor(vendor)
                        }
                        _ => Section::None,
                    };
                }
            }
        }
        names
    }

    fn add(&mut self, section: Section, line: &str, query: &IdQuery) {
        let Some((id, name)) = entry(line) else { return };
        match section {
            Section::Vendor(vendor) if query.devices.contains(&(vendor, id)) => {
                self.devices.insert((vendor, id), name.to_owned());
            }
            Section::Class(base) if query.classes.contains(&(base << 8 | id)) => {
                self.classes.insert(base << 8 | id, name.to_owned());
            }
            _ => {}
        }
    }

    /// The name of a vendor.
    pub fn vendor(&self, vendor: u16) -> Option<&str> {
        self.vendors.get(&vendor).map(String::as_str)
    }

    /// The name of a device.
    pub fn device(&self, vendor: u16, device: u16) -> Option<&str> {
        self.devices.get(&(vendor, device)).map(String::as_str)
    }

    /// The name of a subclass, or of its base class if the subclass has no name.
    pub fn class(&self, class: Class) -> Option<&str> {
        self.classes.get(&class.pair()).map(String::as_str)
    }
}

/// The entry that the following lines with one tab belong to.
#[derive(Debug, Clone, Copy)]
enum Section {
    None,
    Vendor(u16),
    Class(u16),
}

/// Parses number and name from a line: `10de  NVIDIA Corporation`.
fn entry(line: &str) -> Option<(u16, &str)> {
    let (id, name) = line.split_once(' ')?;
    Some((u16::from_str_radix(id, 16).ok()?, name.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &str = "# a comment\n\n\
        1002  AMD\n\t1234  Not this\n\
        10de  NVIDIA Corporation\n\t2330  GH100 [H100 SXM5 80GB]\n\t\t10de 16c1  H100\n\t2331  Other\n\
        C 02  Network controller\n\t00  Ethernet controller\n\
        C 03  Display controller\n\t00  VGA compatible controller\n\t\t00  VGA controller\n\t02  3D controller\n";

    #[test]
    fn parse_finds_only_the_names_that_were_queried() {
        let query = IdQuery {
            devices: [(0x10de, 0x2330), (0x10de, 0x9999), (0xffff, 0x2330)].into(),
            classes: [0x0302, 0x0377, 0x1200].into(),
        };
        let names = PciNames::parse(LIST, &query);
        assert_eq!(names.vendor(0x10de), Some("NVIDIA Corporation"));
        assert_eq!(names.device(0x10de, 0x2330), Some("GH100 [H100 SXM5 80GB]"));
        assert_eq!(names.device(0x10de, 0x9999), None);
        assert_eq!((names.vendor(0x1002), names.vendor(0xffff)), (None, None));
        assert_eq!(names.class(Class(0x030200)), Some("3D controller"));
        assert_eq!(names.class(Class(0x037700)), Some("Display controller"));
        assert_eq!(names.class(Class(0x120000)), None);
    }

    #[test]
    fn a_file_of_another_shape_has_no_names() {
        let query = IdQuery { devices: [(0x10de, 0x2330)].into(), classes: [0x0302].into() };
        for text in ["", "\t", "10de", "C", "C \n\t\n", "\0\n\u{fffd}\t\n", "\t2330  x\n"] {
            assert_eq!(PciNames::parse(text, &query).vendor(0x10de), None, "{text:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_list_makes_parse_panic(
            text in "\\PC*",
            lines in proptest::collection::vec("[C\t]{0,3} ?[0-9a-f\u{e9}]{0,5}  ?[a-z\u{e9}]{0,3}", 0..20),
        ) {
            let query = IdQuery { devices: [(0x10de, 0x2330)].into(), classes: [0x0302].into() };
            let _ = PciNames::parse(&text, &query);
            let _ = PciNames::parse(&lines.join("\n"), &query);
        }
    }
}
