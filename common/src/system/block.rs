//! Finds the block devices that a mount, a mapping or an array is backed by, down to the disks.
//!
//! Source: proc_pid_mountinfo(5); Linux `Documentation/ABI/stable/sysfs-block`,
//! `Documentation/ABI/testing/sysfs-fs-btrfs`.

use std::collections::BTreeSet;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::sys::stat;

use crate::system::pci::Bdf;
use crate::system::sysfs::{attribute, controllers, last, names, target};
use crate::system::sysroot::Host;

/// The mount points of file systems that the host itself needs.
const SYSTEM: [&str; 7] = ["/", "/boot", "/boot/efi", "/efi", "/usr", "/var", "/sysroot"];

/// A line of a mount table.
#[derive(Debug)]
pub struct Mount<'t> {
    /// The device number `major:minor`. The major number is 0 for a file system that is not on one block device.
    pub device: &'t str,
    /// The mount point.
    pub point: String,
    /// The type of the file system, such as `ext4`.
    pub file_system: &'t str,
    /// The source as mountinfo spells it, with octal escapes.
    pub source: &'t str,
    /// The options of the file system, not those of the mount.
    pub options: &'t str,
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
        let options = file_system_options(line);
        Some(Self { device, point, file_system, source, options })
    }

    /// Whether the host itself needs the file system.
    pub fn is_system(&self) -> bool {
        SYSTEM.contains(&self.point.as_str())
    }

    /// Whether the line says, by a device number or a device node, that the file system is on block devices.
    pub fn names_blocks(&self) -> bool {
        let is_fuse = self.file_system == "fuse" || self.file_system.starts_with("fuse.");
        !self.device.starts_with("0:") || self.source.starts_with("/dev/") && !is_fuse
    }

    /// The kernel names of the block devices that the file system is on. For a file system on several devices, these
    /// are all its members.
    pub fn blocks(&self, host: &Host) -> Vec<String> {
        let numbered = Some(self.device).filter(|device| !device.starts_with("0:"));
        let mut blocks: BTreeSet<String> =
            numbered.and_then(|number| block_of_number(host, number)).into_iter().collect();
        if blocks.is_empty() {
            // btrfs and others have device numbers of their own, so the source is used instead.
            let source = unescape(self.source);
            blocks = sources(&source).filter_map(|node| source_block(host, node)).collect();
        }
        // Source: xfs(5): an external log and a real-time device.
        let options = self.options.split(',').filter(|_| self.file_system == "xfs");
        let others =
            options.filter_map(|o| o.strip_prefix("logdev=").or_else(|| o.strip_prefix("rtdev=")));
        blocks.extend(others.filter_map(|node| block_of_node(host, &unescape(node))));
        for members in self.members(host) {
            // If not even one member is known, every file system of this type may be the one.
            let unknown = blocks.is_empty() && self.source == "/dev/root";
            if unknown || members.iter().any(|member| blocks.contains(member)) {
                blocks.extend(members);
            }
        }
        blocks.into_iter().collect()
    }

    /// The members of each mounted file system of this type, for types that can have several members.
    ///
    /// Source: Linux `Documentation/ABI/testing/sysfs-fs-btrfs`; `fs/bcachefs/sysfs.c`.
    fn members(&self, host: &Host) -> Vec<Vec<String>> {
        let folder = format!("/sys/fs/{}", self.file_system);
        let of_btrfs = |uuid: &String| names(host, &format!("{folder}/{uuid}/devices"));
        let of_bcachefs = |uuid: &String| {
            let folder = format!("{folder}/{uuid}");
            let members = names(host, &folder).into_iter().filter(|name| name.starts_with("dev-"));
            let block = |name: String| last(&target(host, &format!("{folder}/{name}/block"))?);
            members.filter_map(block).collect()
        };
        match self.file_system {
            "btrfs" => names(host, &folder).iter().map(of_btrfs).collect(),
            "bcachefs" => names(host, &folder).iter().map(of_bcachefs).collect(),
            _ => Vec::new(),
        }
    }
}

/// The options of the file system in a line of mountinfo. The options of the mount are another field.
fn file_system_options(line: &str) -> &str {
    line.split_once(" - ").and_then(|(_, rest)| rest.splitn(3, ' ').nth(2)).unwrap_or_default()
}

/// The device nodes that a source names. bcachefs names all its members: `/dev/nvme0n1:/dev/nvme1n1`.
fn sources(source: &str) -> impl Iterator<Item = &str> {
    let mut rest = Some(source);
    std::iter::from_fn(move || {
        let text = rest?;
        let end = text.find(":/dev/");
        rest = end.map(|end| &text[end + 1..]);
        Some(&text[..end.unwrap_or(text.len())])
    })
}

/// The block device of a mount's source. The source is `/dev/root` for a root that the kernel itself mounted.
///
/// Source: Linux `Documentation/admin-guide/kernel-parameters.txt`, `root=`; `init/do_mounts.c`.
fn source_block(host: &Host, source: &str) -> Option<String> {
    let found = block_of_node(host, source);
    if found.is_some() || source != "/dev/root" {
        return found;
    }
    let command_line = host.read("/proc/cmdline").ok()??;
    let root = command_line.split_whitespace().rev().find_map(|word| word.strip_prefix("root="))?;
    match root.split_once('=') {
        Some((kind, value)) => {
            let value = value.trim_matches('"');
            block_of_node(host, &format!("/dev/disk/by-{}/{value}", kind.to_ascii_lowercase()))
        }
        None => block_of_node(host, root).or_else(|| block_of_number(host, root)),
    }
}

/// The name below `/sys/class/block` of the block device with the number `major:minor`.
pub fn block_of_number(host: &Host, number: &str) -> Option<String> {
    last(&target(host, &format!("/sys/dev/block/{number}"))?)
}

/// The name below `/sys/class/block` of a device node, such as `/dev/sda1`, `/dev/mapper/root` or
/// `/dev/disk/by-uuid/…`. Links are followed.
pub fn block_of_node(host: &Host, node: &str) -> Option<String> {
    let name = node.strip_prefix("/dev/")?;
    if let Some(found) = block_named(host, name) {
        return Some(found);
    }
    let real = host.real_path(Path::new(node));
    let linked = real.to_str().and_then(|real| block_named(host, real.strip_prefix("/dev/")?));
    linked.or_else(|| {
        let metadata = std::fs::metadata(host.path(node)).ok()?;
        let rdev = Some(metadata.rdev()).filter(|_| metadata.file_type().is_block_device())?;
        block_of_number(host, &format!("{}:{}", stat::major(rdev), stat::minor(rdev)))
    })
}

/// The block device of a name below `/dev`.
fn block_named(host: &Host, name: &str) -> Option<String> {
    let Some(mapping) = name.strip_prefix("mapper/") else {
        let name = name.replace('/', "!");
        let is_there = !name.is_empty() && host.has(&format!("/sys/class/block/{name}"));
        return is_there.then_some(name);
    };
    let is_it = |block: &String| {
        let name = attribute(host, &format!("/sys/class/block/{block}/dm/name"));
        name.as_deref() == Some(mapping)
    };
    names(host, "/sys/class/block").into_iter().filter(|b| b.starts_with("dm-")).find(is_it)
}

/// The paths in sysfs of the disks that a block device is, is part of, or is backed by.
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
            // The members of an array or a mapping are listed one level up.
            left.extend(path.parent().and_then(last));
        } else {
            found.insert(path);
        }
    }
    found
}

/// The PCI devices that control the disk at the given path in sysfs.
pub fn controllers_of(host: &Host, disk: &Path) -> Vec<Bdf> {
    let own = controllers(disk);
    if !own.is_empty() || !disk.to_string_lossy().contains("/nvme-subsystem/") {
        return own;
    }
    // A disk with several controllers, which sysfs shows below none of them.
    let is_subsystem = |path: &&Path| last(path).is_some_and(|n| n.starts_with("nvme-subsys"));
    let Some(subsystem) = disk.ancestors().find(is_subsystem) else { return Vec::new() };
    let found = names(host, &subsystem.to_string_lossy())
        .into_iter()
        .filter_map(|name| target(host, &format!("{}/{name}", subsystem.display())))
        .flat_map(|place| controllers(&place));
    found.collect()
}

/// Decodes the octal escapes of the mount table: `\040` is a space.
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
    fn parse_reads_a_mount_and_refuses_incomplete_lines() {
        let line =
            "36 35 259:2 / /mnt/a\\040b rw,noatime shared:1 master:2 - ext4 /dev/nvme0n1p2 rw";
        let mount = Mount::parse(line).unwrap();
        assert_eq!((mount.device, mount.point.as_str()), ("259:2", "/mnt/a b"));
        assert_eq!((mount.file_system, mount.source), ("ext4", "/dev/nvme0n1p2"));
        assert!(!mount.is_system());
        for line in ["", "1 2 3:4", "1 2 3:4 / / rw -", " - ", "a b c d e f - "] {
            assert!(Mount::parse(line).is_none(), "{line:?}");
        }
    }

    #[test]
    fn sources_splits_a_source_of_several_devices() {
        for (source, nodes) in [
            ("/dev/nvme0n1:/dev/nvme1n1", &["/dev/nvme0n1", "/dev/nvme1n1"][..]),
            (
                "/dev/disk/by-path/pci-0000:00:1f.2-ata-1",
                &["/dev/disk/by-path/pci-0000:00:1f.2-ata-1"],
            ),
            ("server:/srv", &["server:/srv"]),
            ("", &[""]),
        ] {
            assert_eq!(sources(source).collect::<Vec<_>>(), nodes);
        }
    }

    #[test]
    fn unescape_decodes_octal_escapes_and_keeps_other_text() {
        for (text, plain) in
            [("a\\134b", "a\\b"), ("\\0", "\\0"), ("a\\", "a\\"), ("\\999", "\\999")]
        {
            assert_eq!(unescape(text), plain);
        }
    }

    proptest::proptest! {
        #[test]
        fn no_line_of_mountinfo_makes_parse_panic(
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
