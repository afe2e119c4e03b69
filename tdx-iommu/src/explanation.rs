//! Why devices share an IOMMU group, in words.

use std::collections::BTreeMap;

use common::host::Host;
use common::pci::Bdf;

use crate::config_space::ConfigSpace;
use crate::device::Device;
use crate::inventory::{Group, Inventory};

/// Sentences on why the members of a group are not isolated from each other; none for a group of one.
///
/// The kernel puts together what can reach each other without passing the IOMMU: functions of one
/// slot, and what is behind a bridge without ACS. Reads the configuration space of those bridges.
/// Source: Linux `pci_device_group()` in `drivers/iommu/iommu.c`.
pub fn of_group(host: &Host, inventory: &Inventory, group: &Group) -> Vec<String> {
    let devices: Vec<&Device> =
        group.members.iter().filter_map(|bdf| inventory.devices.get(bdf)).collect();
    let mut functions = BTreeMap::<_, u32>::new();
    // By how many members a bridge is passed.
    let mut passed = BTreeMap::<Bdf, u32>::new();
    for device in &devices {
        let Bdf { domain, bus, device: slot, .. } = device.bdf;
        *functions.entry((domain, bus, slot)).or_default() += 1;
        for bridge in &device.upstream {
            *passed.entry(*bridge).or_default() += 1;
        }
    }
    let mut sentences = Vec::new();
    for ((domain, bus, slot), count) in &functions {
        if *count > 1 {
            sentences.push(format!(
                "the {count} functions of slot {domain:04x}:{bus:02x}:{slot:02x} are not isolated \
                 from each other by ACS"
            ));
        }
    }
    if functions.len() > 1 {
        // What is behind different ports is separated above them, unless a port is a member.
        let suspects =
            passed.iter().filter(|(bridge, count)| **count > 1 || group.members.contains(bridge));
        for (bridge, _) in suspects {
            match has_acs(host, *bridge) {
                Some(true) => {}
                Some(false) => sentences.push(format!(
                    "the bridge {bridge} has no ACS: what is behind it is not isolated from each other"
                )),
                None => sentences.push(format!("whether the bridge {bridge} has ACS cannot be seen")),
            }
        }
    }
    sentences
}

fn has_acs(host: &Host, bridge: Bdf) -> Option<bool> {
    let config = host.path(format!("/sys/bus/pci/devices/{bridge}/config"));
    ConfigSpace::new(std::fs::File::open(config).ok()?.into()).has_acs()
}
