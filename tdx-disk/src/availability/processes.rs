//! Which processes have a device open or mapped. Looks at every process, which takes its time.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::Path;

use common::system::sysroot::Host;
use common::{IoContext, Result};
use rustix::fs::{AtFlags, CWD, FileType, StatxFlags, statx};

use crate::block::devt::Number;

/// A process that has a device open.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Process {
    /// Process id.
    pub pid: u32,
    /// The command's name, 15 bytes at most.
    pub command: String,
    /// The node, by the name the process knows it by.
    pub node: String,
}

impl Process {
    /// Whether it is a virtual machine.
    pub fn is_guest(&self) -> bool {
        runs_guests(&self.command)
    }
}

/// Whether a command of this name is a virtual machine.
pub(crate) fn runs_guests(command: &str) -> bool {
    let names = ["qemu", "kvm", "cloud-hyperviso", "crosvm", "firecracker"];
    names.iter().any(|name| command.starts_with(name))
}

/// What is known of them.
#[derive(Debug, Default)]
pub struct Processes {
    holders: BTreeMap<u32, Process>,
    /// How many did not show their files: those of others, without root.
    pub unseen: usize,
}

impl Processes {
    /// Who has one of these devices open or mapped, this process left out.
    ///
    /// Errors: `permission` or `io` when `/proc` cannot be listed.
    /// Source: proc_pid_fd(5), proc_pid_map_files(5).
    pub fn with_open(host: &Host, devices: &BTreeSet<Number>) -> Result<Self> {
        let mut found = Self::default();
        let proc = host.path("/proc");
        // Its id where this /proc has it: that of another process-id namespace has another one.
        let own = fs::read_link(proc.join("self")).unwrap_or_default();
        for entry in fs::read_dir(&proc).at("read", &proc)? {
            let name = entry.at("read", &proc)?.file_name();
            let pid = name.to_str().and_then(|name| name.parse().ok());
            if let Some(pid) = pid.filter(|_| own.as_os_str() != name) {
                found.look_at(&proc.join(name), pid, devices);
            }
        }
        Ok(found)
    }

    /// The processes, by id.
    pub fn all(&self) -> impl Iterator<Item = &Process> {
        self.holders.values()
    }

    /// Those of them that are among the others, too.
    #[must_use]
    pub fn still(mut self, others: &Self) -> Self {
        self.holders.retain(|pid, _| others.holders.contains_key(pid));
        self
    }

    fn look_at(&mut self, process: &Path, pid: u32, devices: &BTreeSet<Number>) {
        match fs::read_dir(process.join("fd")) {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                self.unseen += 1;
                return;
            }
            // A process that ended meanwhile holds nothing.
            Err(_) => return,
            Ok(files) => {
                for file in files.flatten() {
                    self.look_at_file(process, pid, &file.path(), devices);
                }
            }
        }
        let maps = fs::read_to_string(process.join("maps")).unwrap_or_default();
        for line in maps.lines().filter(|line| line.contains(" /dev/")) {
            let range = line.split(' ').next().unwrap_or_default();
            self.look_at_file(process, pid, &process.join("map_files").join(range), devices);
        }
    }

    fn look_at_file(&mut self, process: &Path, pid: u32, link: &Path, devices: &BTreeSet<Number>) {
        if self.holders.contains_key(&pid)
            || !block_number(link).is_some_and(|n| devices.contains(&n))
        {
            return;
        }
        let node = fs::read_link(link).unwrap_or_default().to_string_lossy().into_owned();
        let command = fs::read_to_string(process.join("comm")).unwrap_or_default();
        let command = command.trim_end().to_owned();
        self.holders.insert(pid, Process { pid, command, node });
    }
}

/// The number of the block device that a link in `/proc` leads to.
///
/// What the kernel knows already, nothing newer: a file whose server is gone would be waited for.
pub(crate) fn block_number(link: &Path) -> Option<Number> {
    let known = statx(CWD, link, AtFlags::STATX_DONT_SYNC, StatxFlags::TYPE).ok()?;
    let is_block = FileType::from_raw_mode(known.stx_mode.into()) == FileType::BlockDevice;
    is_block.then_some(Number { major: known.stx_rdev_major, minor: known.stx_rdev_minor })
}
