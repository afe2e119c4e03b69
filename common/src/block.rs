//! Which block device stands on which: mounts, mappings, arrays, down to the disks.
//!
//! Source: proc_pid_mountinfo(5); Linux `Documentation/ABI/stable/sysfs-block`,
//! `Documentation/ABI/testing/sysfs-fs-btrfs`.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::host::Host;
use crate::pci::Bdf;
use crate::sysfs::{attribute, controllers, last, names, target};

/// Where the host has what it cannot do without.
const SYSTEM: [&str; 7] = ["/", "/boot", "/boot/efi", "/efi", "/usr", "/var", "/sysroot"];

/// A line of a mount table.
#[derive(Debug)]
pub struct Mount<'t> {
    /// `major:minor`; major 0 for what is no block device.
    pub device: &'t str,
    /// Where it is mounted.
    pub point: String,
    /// `ext4`, `btrfs`, ….
    pub file_system: &'t str,
    /// What was mounted, as it was named; escaped.
    pub source: &'t str,
}

impl<'t> Mount<'t> {
    /// Reads one line of mountinfo.
    pub fn parse(line: &'t str) -> Option<Self> {
        let (mount, file_system) = line.split_once(" - ")?;
        let mut mount = mount.split(' ');
        let device = mount.nth(2)?;
        let point = unescape(mount.nth(1)?);
        let mut file_system = file_system.split(' ');
        let (file_system, source) = (file_system.next()?, file_system.next()?);
        Some(Self { device, point, file_system, source })
    }

    /// Whether the host cannot do without it.
    pub fn is_system(&self) -> bool {
        SYSTEM.contains(&self.point.as_str())
    }

    /// The names of the block devices it stands on.
    pub fn blocks(&self, host: &Host) -> Vec<String> {
        if !self.device.starts_with("0:") {
            return block_of_number(host, self.device).into_iter().collect();
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

/// The name below `/sys/class/block` of a `major:minor`.
pub fn block_of_number(host: &Host, number: &str) -> Option<String> {
    last(&target(host, &format!("/sys/dev/block/{number}"))?)
}

/// The name below `/sys/class/block` of a device node: `/dev/sda1`, `/dev/mapper/root`.
pub fn block_of_node(host: &Host, node: &str) -> Option<String> {
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

/// Where in sysfs the disks are that a block device is, is on, or is made of.
pub fn disks_below(host: &Host, block: &str) -> BTreeSet<PathBuf> {
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
        } else if host.has(&format!("{}/partition", path.display())) {
            // Of an array or a mapping the parts are told one level up.
            left.extend(path.parent().and_then(last));
        } else {
            found.insert(path);
        }
    }
    found
}

/// The PCI devices that serve the disk at this place in sysfs.
pub fn controllers_of(host: &Host, disk: &Path) -> Vec<Bdf> {
    let own = controllers(disk);
    if !own.is_empty() || !disk.to_string_lossy().contains("/nvme-subsystem/") {
        return own;
    }
    // A disk that the kernel reaches by several controllers, and shows below none.
    let is_subsystem = |path: &&Path| last(path).is_some_and(|n| n.starts_with("nvme-subsys"));
    let Some(subsystem) = disk.ancestors().find(is_subsystem) else { return Vec::new() };
    let found = names(host, &subsystem.to_string_lossy())
        .into_iter()
        .filter_map(|name| target(host, &format!("{}/{name}", subsystem.display())))
        .flat_map(|place| controllers(&place));
    found.collect()
}

/// Undoes the octal escapes of the mount table: `\040` is a space.
pub fn unescape(text: &str) -> String {
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
        assert!(!mount.is_system());
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

    proptest::proptest! {
        #[test]
        fn no_line_panics(
            text in "\\PC*",
            point in "[/a\\\\0-9\u{e9}]{0,12}",
            rest in "[ -]{0,4}[a-z0:]{0,4}[ -]{0,3}[/a]{0,4}",
        ) {
            if let Some(mount) = Mount::parse(&text) {
                mount.is_system();
            }
            Mount::parse(&format!("1 2 3:4 / {point} rw{rest}"));
        }
    }
}
