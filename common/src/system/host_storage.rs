//! Which block devices the host's file systems, its swap and its hibernation image are on.
//!
//! One reader for all tools. A machine always has something mounted: a mount table without a line is that of
//! no machine, and an error, since "nothing is mounted" would be the wrong answer.
//!
//! Source: proc_pid_mountinfo(5), proc_swaps(5), mount_namespaces(7); Linux
//! `Documentation/ABI/testing/sysfs-fs-btrfs`, `Documentation/power/interface.rst`.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::error::{Error, Result};
use crate::system::block::{Mount, block_of_node, block_of_number, unescape};
use crate::system::sysfs::{attribute, names};
use crate::system::sysroot::Host;

/// The mount table of one mount namespace.
#[derive(Debug)]
pub struct MountTable(String);

impl MountTable {
    /// Reads the mount table of this process.
    ///
    /// Errors: `unsupported` when there is none, or none of this process: `/proc` is empty, or that of other
    /// processes; `permission`, `io`.
    pub fn read(host: &Host) -> Result<Self> {
        const PLACE: &str = "/proc/self/mountinfo";
        let bytes = host.read_bytes(PLACE)?.unwrap_or_default();
        // Whatever bytes the names are of: one that is no UTF-8 hides no other.
        let table = Self(String::from_utf8_lossy(&bytes).into_owned());
        if table.mounts().next().is_some() {
            return Ok(table);
        }
        let place = host.path(PLACE);
        let hint = match host.is_this_machine() {
            true => "mount -t proc proc /proc",
            false => "--sysroot names a directory that has a copy of proc/self/mountinfo in it",
        };
        let message = format!("{} does not say what is mounted", place.display());
        Err(Error::unsupported(message)
            .because("without it, no disk can be told from the host's own")
            .hint(hint))
    }

    /// The table of the process `pid`; none when it ended.
    fn of_process(host: &Host, pid: u32) -> std::io::Result<Self> {
        let bytes = std::fs::read(host.path(format!("/proc/{pid}/mountinfo")))?;
        Ok(Self(String::from_utf8_lossy(&bytes).into_owned()))
    }

    /// Its lines, in their order.
    pub fn mounts(&self) -> impl Iterator<Item = Mount<'_>> {
        self.0.lines().filter_map(Mount::parse)
    }

    /// The mount that has a file. Of those at the same place the last one is seen.
    pub fn mount_of(&self, file: &Path) -> Option<Mount<'_>> {
        let mounts = self.mounts().filter(|mount| file.starts_with(&mount.point));
        mounts.max_by_key(|mount| Path::new(&mount.point).components().count())
    }
}

/// Why the host needs a block device.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Need {
    /// A file system on it is mounted.
    Mount {
        /// Where.
        point: String,
        /// What was mounted, as it was named.
        source: String,
        /// Whether the host cannot do without it.
        is_system: bool,
        /// A process in the mount namespace where it is mounted; none for this process's own.
        process: Option<u32>,
    },
    /// It is part of a mounted btrfs, of which a mount table names one part at most.
    BtrfsMember {
        /// The file system's UUID.
        uuid: String,
    },
    /// It, or a file on it, is swap.
    Swap {
        /// The device or the file.
        place: String,
    },
    /// The kernel resumes from it.
    Resume,
}

/// A block device that the host needs.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct NeededBlock {
    /// Its kernel name.
    pub block: String,
    /// What for.
    pub need: Need,
}

/// How far to look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// This process's own mount namespace.
    Own,
    /// That of every process.
    Every,
}

/// The block devices that the host needs itself, not what they are made of.
#[derive(Debug, Default)]
pub struct HostStorage {
    /// Each with what it is needed for, each once.
    pub needed: BTreeSet<NeededBlock>,
    /// Where file systems are mounted whose disks sysfs does not tell: ZFS.
    pub opaque: BTreeSet<String>,
    /// How many processes did not show what is mounted for them.
    pub unseen: usize,
    /// What could not be understood, a sentence each.
    pub problems: Vec<String>,
}

impl HostStorage {
    /// Reads mount tables, swaps, mounted btrfs file systems, and from where the kernel resumes.
    ///
    /// Errors: those of [`MountTable::read`]; `permission` or `io` for `/proc/swaps`.
    pub fn read(host: &Host, scope: Scope) -> Result<Self> {
        let mut storage = Self::default();
        let own = MountTable::read(host)?;
        storage.add_table(host, &own, None);
        if scope == Scope::Every {
            storage.add_other_namespaces(host);
        }
        for uuid in names(host, "/sys/fs/btrfs") {
            for block in names(host, &format!("/sys/fs/btrfs/{uuid}/devices")) {
                storage.add(block, Need::BtrfsMember { uuid: uuid.clone() });
            }
        }
        storage.add_swaps(host, &own)?;
        let resume = attribute(host, "/sys/power/resume").filter(|number| number != "0:0");
        if let Some(block) = resume.and_then(|number| block_of_number(host, &number)) {
            storage.add(block, Need::Resume);
        }
        Ok(storage)
    }

    fn add(&mut self, block: String, need: Need) {
        self.needed.insert(NeededBlock { block, need });
    }

    /// One table, of the namespace that `process` is in; none for our own.
    fn add_table(&mut self, host: &Host, table: &MountTable, process: Option<u32>) {
        let mut seen = BTreeSet::new();
        for mount in table.mounts() {
            if !seen.insert((mount.device, mount.source, mount.point.clone())) {
                continue;
            }
            if mount.file_system == "zfs" {
                self.opaque.insert(mount.point);
                continue;
            }
            let source = unescape(mount.source);
            let blocks = mount.blocks(host);
            if blocks.is_empty() && mount.names_blocks() && process.is_none() {
                let point = &mount.point;
                self.problems.push(format!("no block device is known for {source} on {point}"));
            }
            // A container's own root is not the host's.
            let is_system = mount.is_system() && matches!(process, None | Some(1));
            for block in blocks {
                let (point, source) = (mount.point.clone(), source.clone());
                self.add(block, Need::Mount { point, source, is_system, process });
            }
        }
    }

    /// The mount tables of all other namespaces, each once.
    fn add_other_namespaces(&mut self, host: &Host) {
        let of = |pid: &str| std::fs::read_link(host.path(format!("/proc/{pid}/ns/mnt")));
        let mut seen = BTreeSet::from_iter(of("self").ok());
        let mut pids: Vec<u32> =
            names(host, "/proc").iter().filter_map(|name| name.parse().ok()).collect();
        pids.sort_unstable();
        for pid in pids {
            let read = of(&pid.to_string()).and_then(|namespace| match seen.contains(&namespace) {
                true => Ok(None),
                false => Ok(Some((namespace, MountTable::of_process(host, pid)?))),
            });
            match read {
                Ok(None) => {}
                Ok(Some((namespace, table))) => {
                    seen.insert(namespace);
                    self.add_table(host, &table, Some(pid));
                }
                Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
                    self.unseen += 1;
                }
                // It ended meanwhile; others of its namespace are asked.
                Err(_) => {}
            }
        }
    }

    /// The devices that are swapped to, and those with a file that is.
    fn add_swaps(&mut self, host: &Host, own: &MountTable) -> Result<()> {
        let bytes = host.read_bytes("/proc/swaps")?.unwrap_or_default();
        for line in String::from_utf8_lossy(&bytes).lines().skip(1) {
            let place = unescape(line.split_whitespace().next().unwrap_or_default());
            let blocks = match block_of_node(host, &place) {
                Some(block) => vec![block],
                None => below_file(host, own, Path::new(&place)),
            };
            if blocks.is_empty() {
                self.problems.push(format!("no block device is known for the swap {place}"));
            }
            for block in blocks {
                self.add(block, Need::Swap { place: place.clone() });
            }
        }
        Ok(())
    }
}

/// The block devices of the file system that has a file.
fn below_file(host: &Host, own: &MountTable, file: &Path) -> Vec<String> {
    let device = std::fs::metadata(host.path(file)).ok().filter(|_| host.is_this_machine());
    let number = device.map(|file| {
        format!("{}:{}", nix::sys::stat::major(file.dev()), nix::sys::stat::minor(file.dev()))
    });
    if let Some(block) = number.and_then(|number| block_of_number(host, &number)) {
        return vec![block];
    }
    own.mount_of(&host.real_path(file)).map_or_else(Vec::new, |mount| mount.blocks(host))
}
