//! Which PCI devices the host's file systems and swaps stand on.

use std::collections::BTreeSet;

use common::block::{Mount, block_of_node, controllers_of, disks_below, unescape};
use common::host::Host;
use common::pci::Bdf;
use common::sysfs::names;

use super::{Usage, Use};

/// Mounts, swaps, and block devices that others are made of.
///
/// Source: proc_swaps(5); [`common::block`].
pub(super) fn read(host: &Host, usage: &mut Usage, problems: &mut Vec<String>) {
    let mut text = |path: &str| {
        let text = host.read(path).unwrap_or_else(|error| {
            problems.push(error.to_string());
            None
        });
        text.unwrap_or_default()
    };
    let mounts = text("/proc/self/mountinfo");
    let swaps = text("/proc/swaps");

    let mut seen = BTreeSet::new();
    for mount in mounts.lines().filter_map(Mount::parse) {
        let is_system = mount.is_system();
        // The same thing mounted twice is looked up once, unless it matters more the second time.
        if !seen.insert((mount.device, mount.source, is_system)) {
            continue;
        }
        if mount.file_system == "zfs" {
            usage.opaque.insert(mount.point);
            continue;
        }
        let what = format!("{} is mounted on {}", mount.source, mount.point);
        let what = if is_system { Use::System(what) } else { Use::Disk(what) };
        for block in mount.blocks(host) {
            usage.add(below(host, &block), what.clone());
        }
    }
    for line in swaps.lines().skip(1) {
        let device = unescape(line.split_whitespace().next().unwrap_or_default());
        if let Some(block) = block_of_node(host, &device) {
            usage.add(below(host, &block), Use::System(format!("{device} is swap")));
        }
    }
    for name in names(host, "/sys/class/block") {
        let holders = names(host, &format!("/sys/class/block/{name}/holders"));
        if !holders.is_empty() {
            let what = Use::Disk(format!("/dev/{name} is part of {}", holders.join(", ")));
            usage.add(below(host, &name), what);
        }
    }
}

/// The disks, not their partitions, that stand on one of these devices.
pub(super) fn disks_of(host: &Host, devices: &BTreeSet<Bdf>) -> Vec<(Bdf, String)> {
    let mut disks = Vec::new();
    for disk in names(host, "/sys/block") {
        let on = below(host, &disk);
        disks.extend(on.intersection(devices).map(|bdf| (*bdf, disk.clone())));
    }
    disks
}

/// The PCI devices below a block device: its own, or those of all that it is made of.
fn below(host: &Host, block: &str) -> BTreeSet<Bdf> {
    disks_below(host, block).iter().flat_map(|disk| controllers_of(host, disk)).collect()
}
