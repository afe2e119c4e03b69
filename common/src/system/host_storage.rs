//! Finds the block devices that back the host's file systems, its swap and its hibernation image.
//!
//! All tools use this module. A machine always has a mounted file system. An empty mount table is therefore an error,
//! because "nothing is mounted" would be the wrong answer.
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
    /// Errors: `unsupported` when `/proc` is not mounted or does not show this process; `permission`, `io`.
    pub fn read(host: &Host) -> Result<Self> {
        const PLACE: &str = "/proc/self/mountinfo";
        let bytes = host.read_bytes(PLACE)?.unwrap_or_default();
        // Lossy, so that one name that is not UTF-8 does not hide the other mounts.
        let table = Self(String::from_utf8_lossy(&bytes).into_owned());
        if table.mounts().next().is_some() {
            return Ok(table);
        }
        let place = host.path(PLACE);
        let hint = match host.is_this_machine() {
            true => "mount -t proc proc /proc",
            false => "add a copy of /proc/self/mountinfo to the --sysroot directory",
        };
        let message = format!("{} lists no mounts", place.display());
        Err(Error::unsupported(message)
            .because(
                "without the list of mounts, disks in use cannot be distinguished from free disks",
            )
            .hint(hint))
    }

    /// Reads the mount table of the process `pid`.
    fn of_process(host: &Host, pid: u32) -> std::io::Result<Self> {
        let bytes = std::fs::read(host.path(format!("/proc/{pid}/mountinfo")))?;
        Ok(Self(String::from_utf8_lossy(&bytes).into_owned()))
    }

    /// The mounts, in the order of the table.
    pub fn mounts(&self) -> impl Iterator<Item = Mount<'_>> {
        self.0.lines().filter_map(Mount::parse)
    }

    /// The mount that contains a file. Of several mounts at the same mount point, only the last one is visible.
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
        /// The mount point.
        point: String,
        /// The source of the mount.
        source: String,
        /// Whether the host itself needs the file system.
        is_system: bool,
        /// A process in the mount namespace of the mount; none for the namespace of this process.
        process: Option<u32>,
    },
    /// The device is a member of a mounted btrfs. A mount table names at most one member.
    BtrfsMember {
        /// The file system's UUID.
        uuid: String,
    },
    /// The device, or a file on it, is swap space.
    Swap {
        /// The path of the device or the file.
        place: String,
    },
    /// The kernel resumes from it.
    Resume,
}

/// A block device that the host needs.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct NeededBlock {
    /// The kernel name of the device.
    pub block: String,
    /// Why the host needs the device.
    pub need: Need,
}

/// Whose mounts to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// The mount namespace of this process.
    Own,
    /// The mount namespaces of all processes.
    Every,
}

/// The block devices that the host itself uses. The devices that back them are not included.
#[derive(Debug, Default)]
pub struct HostStorage {
    /// Each device with the reason why the host needs it, without duplicates.
    pub needed: BTreeSet<NeededBlock>,
    /// The mount points of file systems whose disks sysfs does not show (ZFS).
    pub opaque: BTreeSet<String>,
    /// The number of processes whose mount table could not be read.
    pub unseen: usize,
    /// Messages about mounts and swaps whose block device was not found.
    pub problems: Vec<String>,
}

impl HostStorage {
    /// Reads mount tables, swaps, mounted btrfs file systems, and the device that the kernel resumes from.
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

    /// Adds the mounts of one table. `process` is in the namespace of the table; none for this process's namespace.
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
                self.problems
                    .push(format!("cannot find the block device of {source}, mounted on {point}"));
            }
            // The root of a container is not the root of the host.
            let is_system = mount.is_system() && matches!(process, None | Some(1));
            for block in blocks {
                let (point, source) = (mount.point.clone(), source.clone());
                self.add(block, Need::Mount { point, source, is_system, process });
            }
        }
    }

    /// Adds the mount tables of all other namespaces, each once.
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
                // The process has ended; other processes of its namespace are read.
                Err(_) => {}
            }
        }
    }

    /// Adds the devices that are swap space, and the devices that hold a swap file.
    fn add_swaps(&mut self, host: &Host, own: &MountTable) -> Result<()> {
        let bytes = host.read_bytes("/proc/swaps")?.unwrap_or_default();
        for line in String::from_utf8_lossy(&bytes).lines().skip(1) {
            let place = unescape(line.split_whitespace().next().unwrap_or_default());
            let blocks = match block_of_node(host, &place) {
                Some(block) => vec![block],
                None => below_file(host, own, Path::new(&place)),
            };
            if blocks.is_empty() {
                self.problems.push(format!("cannot find the block device of swap {place}"));
            }
            for block in blocks {
                self.add(block, Need::Swap { place: place.clone() });
            }
        }
        Ok(())
    }
}

/// The block devices of the file system that contains a file.
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
