//! Which PCI devices the host's file systems and swaps stand on.

use std::collections::BTreeSet;
use std::path::Path;

use common::host::Host;
use common::pci::Bdf;

use super::{Usage, Use, attribute, controllers, names, target};

/// What the host cannot do without.
const SYSTEM: [&str; 7] = ["/", "/boot", "/boot/efi", "/efi", "/usr", "/var", "/sysroot"];

/// Mounts, swaps, and block devices that others are made of.
///
/// Source: proc_pid_mountinfo(5); proc_swaps(5); Linux `Documentation/ABI/stable/sysfs-block`,
/// `Documentation/ABI/testing/sysfs-fs-btrfs`.
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
        let is_system = SYSTEM.contains(&mount.point.as_str());
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

/// A line of the mount table.
#[derive(Debug)]
struct Mount<'t> {
    /// `major:minor`; major 0 for what is no block device.
    device: &'t str,
    point: String,
    file_system: &'t str,
    source: &'t str,
}

impl<'t> Mount<'t> {
    fn parse(line: &'t str) -> Option<Self> {
        let (mount, file_system) = line.split_once(" - ")?;
        let mut mount = mount.split(' ');
        let device = mount.nth(2)?;
        let point = unescape(mount.nth(1)?);
        let mut file_system = file_system.split(' ');
        let (file_system, source) = (file_system.next()?, file_system.next()?);
        Some(Self { device, point, file_system, source })
    }

    /// The names of the block devices it stands on.
    fn blocks(&self, host: &Host) -> Vec<String> {
        if !self.device.starts_with("0:") {
            let path = target(host, &format!("/sys/dev/block/{}", self.device));
            return path.as_deref().and_then(last).into_iter().collect();
        }
        // btrfs and others have device numbers of their own; the source is the best that is known.
        let Some(block) = block_of_node(host, &unescape(self.source)) else { return Vec::new() };
        if self.file_system == "btrfs" {
            for uuid in names(host, "/sys/fs/btrfs") {
                let devices = names(host, &format!("/sys/fs/btrfs/{uuid}/devices"));
                if devices.contains(&block) {
                    return devices;
                }
            }
        }
        vec![block]
    }
}

/// The name below `/sys/class/block` of a device node: `/dev/sda1`, `/dev/mapper/root`.
fn block_of_node(host: &Host, node: &str) -> Option<String> {
    let name = node.strip_prefix("/dev/")?;
    let Some(mapping) = name.strip_prefix("mapper/") else {
        let name = name.replace('/', "!");
        return host.has(&format!("/sys/class/block/{name}")).then_some(name);
    };
    let is_it = |block: &String| {
        let name = attribute(host, &format!("/sys/class/block/{block}/dm/name"));
        name.as_deref() == Some(mapping)
    };
    names(host, "/sys/class/block").into_iter().filter(|b| b.starts_with("dm-")).find(is_it)
}

/// The PCI devices below a block device: its own, or those of all that it is made of.
fn below(host: &Host, block: &str) -> BTreeSet<Bdf> {
    let mut found = BTreeSet::new();
    let mut looked_at = BTreeSet::new();
    let mut left = vec![block.to_owned()];
    while let Some(name) = left.pop() {
        if !looked_at.insert(name.clone()) {
            continue;
        }
        let Some(path) = target(host, &format!("/sys/class/block/{name}")) else { continue };
        let slaves = names(host, &format!("{}/slaves", path.display()));
        if !slaves.is_empty() {
            left.extend(slaves);
            continue;
        }
        let own = controllers(&path);
        if !own.is_empty() {
            found.extend(own);
        } else if path.to_string_lossy().contains("/nvme-subsystem/") {
            found.extend(nvme_controllers(host, &path));
        } else if host.has(&format!("{}/partition", path.display())) {
            // Of an array or a mapping, whose parts are told one level up.
            left.extend(path.parent().and_then(last));
        }
    }
    found
}

/// The controllers of a disk that the kernel reaches by several of them, and shows below none.
fn nvme_controllers(host: &Host, path: &Path) -> Vec<Bdf> {
    let is_subsystem = |path: &&Path| last(path).is_some_and(|n| n.starts_with("nvme-subsys"));
    let Some(subsystem) = path.ancestors().find(is_subsystem) else { return Vec::new() };
    let found = names(host, &subsystem.to_string_lossy())
        .into_iter()
        .filter_map(|name| target(host, &format!("{}/{name}", subsystem.display())))
        .flat_map(|place| controllers(&place));
    found.collect()
}

fn last(path: &Path) -> Option<String> {
    Some(path.file_name()?.to_str()?.to_owned())
}

/// Undoes the octal escapes of the mount table: `\040` is a space.
fn unescape(text: &str) -> String {
    let mut parts = text.split('\\');
    let mut plain = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let code = part.get(..3).and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match code {
            Some(byte) if byte.is_ascii() => {
                plain.push(byte.into());
                plain.push_str(&part[3..]);
            }
            _ => {
                plain.push('\\');
                plain.push_str(part);
            }
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_are_read() {
        let line =
            "36 35 259:2 / /mnt/a\\040b rw,noatime shared:1 master:2 - ext4 /dev/nvme0n1p2 rw";
        let mount = Mount::parse(line).unwrap();
        assert_eq!((mount.device, mount.point.as_str()), ("259:2", "/mnt/a b"));
        assert_eq!((mount.file_system, mount.source), ("ext4", "/dev/nvme0n1p2"));
        for line in ["", "1 2 3:4", "1 2 3:4 / / rw -", " - ", "a b c d e f - "] {
            Mount::parse(line);
        }
    }

    #[test]
    fn escapes_are_undone() {
        for (text, plain) in
            [("a\\134b", "a\\b"), ("\\0", "\\0"), ("a\\", "a\\"), ("\\999", "\\999")]
        {
            assert_eq!(unescape(text), plain);
        }
    }
}
