//! Finds the PCI devices that back the host's file systems and swaps.

use std::collections::BTreeSet;

use common::Result;
use common::system::block::{controllers_of, disks_below};
use common::system::host_storage::{HostStorage, Need, NeededBlock, Scope};
use common::system::pci::Bdf;
use common::system::sysfs::names;
use common::system::sysroot::Host;

use crate::inventory::usage::host_use::{HostUse, Usage};

/// Adds the disks of mounted file systems, of swaps and of the hibernation image, and the disks that back other block
/// devices.
///
/// Errors: those of [`HostStorage::read`].
pub(super) fn read(host: &Host, usage: &mut Usage, problems: &mut Vec<String>) -> Result<()> {
    let mut storage = HostStorage::read(host, Scope::Own)?;
    usage.opaque.append(&mut storage.opaque);
    problems.append(&mut storage.problems);
    for NeededBlock { block, need } in &storage.needed {
        let of_block = storage.needed.iter().filter(|needed| needed.block == *block);
        let is_mounted = of_block.map(|n| &n.need).any(|need| matches!(need, Need::Mount { .. }));
        let what = match need {
            Need::Mount { point, source, is_system, .. } => {
                let what = format!("{source} is mounted on {point}");
                if *is_system { HostUse::System(what) } else { HostUse::Disk(what) }
            }
            // The mount point of the file system is more helpful.
            Need::BtrfsMember { .. } if is_mounted => continue,
            Need::BtrfsMember { uuid } => HostUse::Disk(format!(
                "/dev/{block} is part of the mounted btrfs file system {uuid}"
            )),
            Need::Swap { place } => HostUse::System(format!("the host uses {place} as swap space")),
            Need::Resume => HostUse::System(format!(
                "/dev/{block} is the resume device of the host, for hibernation"
            )),
        };
        usage.add(below(host, block), what);
    }
    for name in names(host, "/sys/class/block") {
        let holders = names(host, &format!("/sys/class/block/{name}/holders"));
        if !holders.is_empty() {
            let what = HostUse::Disk(format!("/dev/{name} is part of {}", holders.join(", ")));
            usage.add(below(host, &name), what);
        }
    }
    Ok(())
}

/// The whole disks that one of these PCI devices controls, directly or through the devices that back them.
pub fn disks_of(host: &Host, devices: &BTreeSet<Bdf>) -> Vec<(Bdf, String)> {
    let mut disks = Vec::new();
    for disk in names(host, "/sys/block") {
        let on = below(host, &disk);
        disks.extend(on.intersection(devices).map(|bdf| (*bdf, disk.clone())));
    }
    disks
}

/// The PCI devices of a block device: its own controllers, or those of all block devices that back it.
fn below(host: &Host, block: &str) -> BTreeSet<Bdf> {
    disks_below(host, block).iter().flat_map(|disk| controllers_of(host, disk)).collect()
}
