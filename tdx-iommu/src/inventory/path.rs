//! Hop paths: the place of a device, in a notation that does not change when buses are renumbered.

use std::fmt;
use std::str::FromStr;

use common::system::pci::Bdf;

/// The path from a root bus to a device, with one hop per bridge.
///
/// Written as `0000_17_01.0-00_00.0`: domain and number of the root bus, then device and function number of every
/// bridge on the path and of the device itself. The path does not contain the bus numbers below the root bus, because
/// firmware and kernel may assign new ones when a card is added. The `00` before the later hops is the number of
/// buses between the bridge's own bus and the device, which is not 0 only for virtual functions. The path of a device
/// behind an Intel VMD controller, which creates a PCI domain of its own, leads through that controller.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HopPath {
    /// PCI domain of the root bus.
    pub domain: u32,
    /// Number of the root bus.
    pub root: u8,
    /// The hops. They are never empty, and the last one is the device.
    pub hops: Vec<Hop>,
}

/// One hop of a [`HopPath`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hop {
    /// Buses beyond the one right behind the bridge.
    pub offset: u8,
    /// Device number, 0 to 31.
    pub device: u8,
    /// Function number, 0 to 7.
    pub function: u8,
}

impl HopPath {
    /// Computes the hop path from the directory of a device below `/sys/devices`, such as
    /// `pci0000:17/0000:17:01.0/0000:18:00.0`. None for any other directory.
    ///
    /// `offset` is the offset of the device itself. See [`Hop::offset`].
    pub fn from_sysfs<'a>(folder: &'a str, offset: u8) -> Option<(Self, Vec<Bdf>)> {
        let mut parts = folder.split('/').skip_while(|part| root_bus(part).is_none());
        let (domain, root) = root_bus(parts.next()?)?;
        // A bus within the chain is the root of a domain behind a controller, which is not a hop of its own.
        let is_hop = |part: &&'a str| root_bus(part).is_none();
        let chain: Vec<Bdf> = parts.filter(is_hop).map_while(|part| part.parse().ok()).collect();
        let mut hops: Vec<Hop> = chain
            .iter()
            .map(|bdf| Hop { offset: 0, device: bdf.device, function: bdf.function })
            .collect();
        let last = hops.len().checked_sub(1)?;
        // A device on the root bus has no bridge to count from.
        let root = if last == 0 { root.wrapping_add(offset) } else { root };
        hops[last].offset = if last == 0 { 0 } else { offset };
        Some((Self { domain, root, hops }, chain))
    }
}

/// Parses domain and number of a root bus: `pci0000:17`.
fn root_bus(part: &str) -> Option<(u32, u8)> {
    let (domain, bus) = part.strip_prefix("pci")?.split_once(':')?;
    Some((u32::from_str_radix(domain, 16).ok()?, u8::from_str_radix(bus, 16).ok()?))
}

impl fmt::Display for HopPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04x}_{:02x}", self.domain, self.root)?;
        for (index, Hop { offset, device, function }) in self.hops.iter().enumerate() {
            if index > 0 {
                write!(f, "-{offset:02x}")?;
            }
            write!(f, "_{device:02x}.{function}")?;
        }
        Ok(())
    }
}

impl FromStr for HopPath {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        parse(text).ok_or_else(|| {
            format!(
                "{text:?} is not a PCI path (the addresses from the root port to the device) such as \
                 0000_17_01.0-00_00.0"
            )
        })
    }
}

fn parse(text: &str) -> Option<HopPath> {
    let (domain, rest) = text.split_once('_')?;
    let (domain_digits, domain) = (domain.len(), hex(domain)?);
    if !(4..=8).contains(&domain_digits) {
        return None;
    }
    let mut root = 0;
    let mut hops = Vec::new();
    for (index, hop) in rest.split('-').enumerate() {
        let (offset, address) = hop.split_once('_')?;
        let (device, function) = address.split_once('.')?;
        if (offset.len(), device.len(), function.len()) != (2, 2, 1) {
            return None;
        }
        let mut offset: u8 = hex(offset)?.try_into().ok()?;
        if index == 0 {
            root = std::mem::take(&mut offset);
        }
        let (device, function) = (hex(device)? as u8, hex(function)? as u8);
        if device > 31 || function > 7 {
            return None;
        }
        hops.push(Hop { offset, device, function });
    }
    Some(HopPath { domain, root, hops })
}

/// Parses a number of lowercase hexadecimal digits. Uppercase is refused, because paths are also compared as text.
fn hex(digits: &str) -> Option<u32> {
    let plain = |b: u8| matches!(b, b'0'..=b'9' | b'a'..=b'f');
    digits.bytes().all(plain).then(|| u32::from_str_radix(digits, 16).ok())?
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn path(folder: &str) -> Option<String> {
        Some(HopPath::from_sysfs(folder, 0)?.0.to_string())
    }

    #[test]
    fn a_sysfs_directory_becomes_a_hop_path() {
        for (folder, wanted) in [
            ("../../../devices/pci0000:00/0000:00:1f.2", "0000_00_1f.2"),
            ("pci0000:17/0000:17:01.0/0000:18:00.0", "0000_17_01.0-00_00.0"),
            (
                "../../../devices/pci0000:00/0000:00:0e.0/pci10000:e0/10000:e0:06.0/10000:e1:00.0",
                "0000_00_0e.0-00_06.0-00_00.0",
            ),
        ] {
            assert_eq!(path(folder).as_deref(), Some(wanted), "{folder}");
        }
        for folder in ["", "devices/virtual/net/lo", "pci0000:00", "pci0000:zz/0000:00:00.0"] {
            assert_eq!(path(folder), None, "{folder}");
        }
    }

    #[test]
    fn virtual_functions_on_further_buses_have_different_paths() {
        let folder = "devices/pci0000:17/0000:17:01.0/0000:19:00.3";
        let path = |offset| HopPath::from_sysfs(folder, offset).unwrap().0.to_string();
        assert_eq!(
            (path(0), path(1)),
            ("0000_17_01.0-00_00.3".into(), "0000_17_01.0-01_00.3".into())
        );
        let root = HopPath::from_sysfs("devices/pci0000:17/0000:18:00.3", 1).unwrap().0;
        assert_eq!(root.to_string(), "0000_18_00.3");
    }

    #[test]
    fn other_text_is_not_a_hop_path() {
        for text in [
            "",
            "0000_17",
            "0000_17_01.0-",
            "0000_17_01.0-00_00.0-",
            "000_17_01.0",
            "0000_17_20.0",
            "0000_17_01.8",
            "0000_17_01.0-0_00.0",
            "0000_17_1.0",
            "0000_17_0A.0",
            "0000:17:01.0",
            "000000000_17_01.0",
        ] {
            assert!(text.parse::<HopPath>().is_err(), "{text:?}");
        }
    }

    fn hop() -> impl Strategy<Value = Hop> {
        (any::<u8>(), 0u8..32, 0u8..8).prop_map(|(offset, device, function)| Hop {
            offset,
            device,
            function,
        })
    }

    proptest! {
        #[test]
        fn a_printed_path_is_parsed_to_the_same_path(domain: u32, root: u8, hops in prop::collection::vec(hop(), 1..6)) {
            let mut path = HopPath { domain, root, hops };
            path.hops[0].offset = 0;
            prop_assert_eq!(path.to_string().parse::<HopPath>(), Ok(path));
        }

        #[test]
        fn renumbered_buses_do_not_change_the_path(
            chain in prop::collection::vec((0u8..32, 0u8..8), 1..6),
            before: [u8; 6],
            after: [u8; 6],
        ) {
            // The same bridges, and other numbers for every bus but the root's.
            let folder = |buses: [u8; 6]| {
                let mut folder = "devices/pci0000:17".to_owned();
                for (depth, (device, function)) in chain.iter().enumerate() {
                    let bus = if depth == 0 { 0x17 } else { buses[depth] };
                    folder += &format!("/0000:{bus:02x}:{device:02x}.{function}");
                }
                folder
            };
            prop_assert_eq!(path(&folder(before)), path(&folder(after)));
        }

        #[test]
        fn different_chains_have_different_paths(
            one in prop::collection::vec((0u8..32, 0u8..8), 1..5),
            two in prop::collection::vec((0u8..32, 0u8..8), 1..5),
        ) {
            let path = |chain: &[(u8, u8)]| {
                let hop = |&(device, function): &(u8, u8)| Hop { offset: 0, device, function };
                let hops = chain.iter().map(hop).collect();
                HopPath { domain: 0, root: 0, hops }.to_string()
            };
            prop_assert_eq!(path(&one) == path(&two), one == two);
        }

        #[test]
        fn no_text_makes_a_hop_path_panic(text in "\\PC*") {
            let _ = text.parse::<HopPath>();
            let _ = HopPath::from_sysfs(&text, 0);
        }
    }
}
