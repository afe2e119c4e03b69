//! What is mounted, in every mount namespace, and what is swapped to.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt;

use common::Code;
use common::block::{Mount, block_of_node, unescape};
use common::host::Host;
use common::sysfs::{attribute, names};

use crate::blocks::Blocks;
use crate::finding::{Finding, quoted};
use crate::number::Number;

/// What is seen of block devices, by their kernel names.
#[derive(Debug, Default)]
pub struct Mounts {
    by_block: BTreeMap<String, BTreeSet<Finding>>,
    points: BTreeMap<String, BTreeSet<String>>,
    /// How many processes did not show what is mounted for them.
    pub unseen: usize,
    /// What could not be read, a sentence each.
    pub problems: Vec<String>,
}

/// How far to look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// This process's own mount namespace.
    Own,
    /// That of every process.
    Every,
}

impl Mounts {
    /// Reads mount tables, swaps, and from where the kernel resumes.
    pub fn read(host: &Host, blocks: &Blocks, scope: Scope) -> Self {
        let mut mounts = Self::default();
        let own = mounts.text(host, "/proc/self/mountinfo");
        mounts.add_table(host, &own, None);
        if scope == Scope::Every {
            mounts.add_other_namespaces(host);
        }
        mounts.add_btrfs(host);
        for line in mounts.text(host, "/proc/swaps").lines().skip(1) {
            let place = unescape(line.split_whitespace().next().unwrap_or_default());
            mounts.add_swap(host, blocks, &place);
        }
        let resume = attribute(host, "/sys/power/resume").and_then(|text| text.parse().ok());
        if let Some(block) = resume.and_then(|number: Number| blocks.numbered(number)) {
            let message = format!("the host resumes from {}", block.node());
            mounts.add(&block.name, Finding::new(Code::SystemDisk, message));
        }
        mounts
    }

    /// A table of the kernel's, whatever bytes its names are of.
    fn text(&mut self, host: &Host, path: &str) -> String {
        let bytes = host.read_bytes(path).unwrap_or_else(|error| {
            self.problems.push(error.to_string());
            None
        });
        String::from_utf8_lossy(&bytes.unwrap_or_default()).into_owned()
    }

    /// What is seen of one device itself, not of what stands on it.
    pub fn of(&self, block: &str) -> impl Iterator<Item = &Finding> {
        self.by_block.get(block).into_iter().flatten()
    }

    /// Where a device itself is mounted.
    pub fn points(&self, block: &str) -> impl Iterator<Item = &String> {
        self.points.get(block).into_iter().flatten()
    }

    fn add(&mut self, block: &str, finding: Finding) {
        self.by_block.entry(block.to_owned()).or_default().insert(finding);
    }

    /// One table, of the namespace that the process `pid` is in; none for our own.
    fn add_table(&mut self, host: &Host, table: &str, pid: Option<u32>) {
        let mut seen = BTreeSet::new();
        for mount in table.lines().filter_map(Mount::parse) {
            // A container's own root is not the host's.
            let is_system = mount.is_system() && matches!(pid, None | Some(1));
            if !seen.insert((mount.device, mount.source, mount.point.clone())) {
                continue;
            }
            let point = quoted(&mount.point);
            let (place, umount) = match pid {
                None => (String::new(), format!("umount {point}")),
                Some(pid) => (
                    format!(" in the mount namespace of process {pid}"),
                    format!("nsenter -t {pid} -m umount {point}"),
                ),
            };
            for block in mount.blocks(host) {
                self.points.entry(block.clone()).or_default().insert(mount.point.clone());
                let message = format!("/dev/{block} is mounted on {}{place}", mount.point);
                let mut finding = Finding::new(Code::Mounted, message);
                if is_system {
                    let message = format!("the host has {} on /dev/{block}", mount.point);
                    self.add(&block, Finding::new(Code::SystemDisk, message));
                } else {
                    finding = finding.remedy(umount.clone());
                }
                self.add(&block, finding);
            }
        }
    }

    /// The mount tables of all other namespaces, each once.
    ///
    /// Source: mount_namespaces(7); proc_pid_mountinfo(5).
    fn add_other_namespaces(&mut self, host: &Host) {
        let of = |pid: &str| std::fs::read_link(host.path(format!("/proc/{pid}/ns/mnt")));
        let table = |pid: u32| host.path(format!("/proc/{pid}/mountinfo"));
        let mut seen = BTreeSet::from_iter(of("self").ok());
        let mut pids: Vec<u32> =
            names(host, "/proc").iter().filter_map(|name| name.parse().ok()).collect();
        pids.sort_unstable();
        for pid in pids {
            let read = of(&pid.to_string()).and_then(|namespace| match seen.contains(&namespace) {
                true => Ok(None),
                false => Ok(Some((namespace, std::fs::read(table(pid))?))),
            });
            match read {
                Ok(None) => {}
                Ok(Some((namespace, text))) => {
                    seen.insert(namespace);
                    self.add_table(host, &String::from_utf8_lossy(&text), Some(pid));
                }
                Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
                    self.unseen += 1;
                }
                // It ended meanwhile; others of its namespace are asked.
                Err(_) => {}
            }
        }
    }

    /// Members of mounted btrfs file systems, of which a mount table names one at most.
    ///
    /// Source: Linux `Documentation/ABI/testing/sysfs-fs-btrfs`: only mounted ones are there.
    fn add_btrfs(&mut self, host: &Host) {
        for uuid in names(host, "/sys/fs/btrfs") {
            for block in names(host, &format!("/sys/fs/btrfs/{uuid}/devices")) {
                if !self.of(&block).any(|finding| finding.code == Code::Mounted) {
                    let message = format!("/dev/{block} is part of the mounted btrfs {uuid}");
                    self.add(&block, Finding::new(Code::Mounted, message));
                }
            }
        }
    }

    /// A device, or a file, that is swapped to.
    fn add_swap(&mut self, host: &Host, blocks: &Blocks, place: &str) {
        let by_node = block_of_node(host, place).or_else(|| {
            let block = blocks.of_path(host, place)?;
            Some(block.name.clone())
        });
        let block = by_node.or_else(|| {
            let device = std::fs::metadata(host.path(place)).ok()?.dev();
            Some(blocks.numbered(Number::of_node(device))?.name.clone())
        });
        if let Some(block) = block {
            let finding = Finding::new(Code::Swap, format!("{place} is swap"));
            self.add(&block, finding.remedy(format!("swapoff {}", quoted(place))));
        }
    }
}
