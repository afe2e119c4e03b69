//! Explains why devices share an IOMMU group.

use std::collections::BTreeMap;

use common::system::pci::Bdf;
use common::system::sysroot::Host;

use crate::inventory::config_space::ConfigSpace;
use crate::inventory::device::Device;
use crate::inventory::{Group, Inventory};

/// The reasons why the members of a group are not isolated from each other; empty for a group with one device.
///
/// The kernel groups devices that can reach each other without the IOMMU: the functions of one slot, and the devices
/// behind a bridge without ACS. The function reads the configuration space of these bridges.
/// Source: Linux `pci_device_group()` in `drivers/iommu/iommu.c`.
pub fn explain_group(host: &Host, inventory: &Inventory, group: &Group) -> Vec<String> {
    let devices: Vec<&Device> =
        group.members.iter().filter_map(|bdf| inventory.devices.get(bdf)).collect();
    let mut functions = BTreeMap::<_, u32>::new();
    // For each bridge, the number of members below it.
    let mut passed = BTreeMap::<Bdf, u32>::new();
    for device in &devices {
        let Bdf { domain, bus, device: slot, .. } = device.bdf;
        *functions.entry((domain, bus, slot)).or_default() += 1;
        for bridge in &device.upstream {
            *passed.entry(*bridge).or_default() += 1;
        }
    }
    let shared = functions.iter().filter(|(_, count)| **count > 1);
    let slot = |((domain, bus, slot), _): (&(u32, u8, u8), &u32)| {
        format!("{domain:04x}:{bus:02x}:{slot:02x}")
    };
    let shared: Vec<String> = shared.map(slot).collect();
    let (mut without_acs, mut unreadable) = (Vec::new(), Vec::new());
    if functions.len() > 1 {
        // Devices behind different ports are separated above the ports, unless a port is a member of the group.
        let suspect = |bridge: &Bdf, count: u32| count > 1 || group.members.contains(bridge);
        for (bridge, _) in passed.into_iter().filter(|(bridge, count)| suspect(bridge, *count)) {
            match has_acs(host, bridge) {
                Some(true) => {}
                Some(false) => without_acs.push(bridge.to_string()),
                None => unreadable.push(bridge.to_string()),
            }
        }
    }
    let sentences = [
        (shared, "functions of the same slot are not isolated by ACS: "),
        (without_acs, "devices behind a bridge without ACS are not isolated: "),
        (unreadable, "the ACS capability of these bridges cannot be read: "),
    ];
    let known = sentences.into_iter().filter(|(names, _)| !names.is_empty());
    known.map(|(names, what)| format!("{what}{}", list_first(&names))).collect()
}

/// The first few names, and how many more there are.
pub(crate) fn list_first(names: &[String]) -> String {
    const SHOWN: usize = 8;
    let shown = names.iter().take(SHOWN).cloned().collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(SHOWN) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

fn has_acs(host: &Host, bridge: Bdf) -> Option<bool> {
    let config = host.path(format!("/sys/bus/pci/devices/{bridge}/config"));
    ConfigSpace::new(std::fs::File::open(config).ok()?.into()).has_acs()
}
