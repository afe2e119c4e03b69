//! Finds the processes that have a device open or mapped. Reads every process, which takes time.

use std::collections::{BTreeMap, BTreeSet};

use common::Result;
use common::system::devt::DevT;
use common::system::open_files;
use common::system::open_files::OpenFile;
use common::system::sysroot::Host;

/// A process that has a device open.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Process {
    /// The process id.
    pub pid: u32,
    /// The name of the command, at most 15 bytes.
    pub command: String,
    /// The path of the device node, as the process sees it.
    pub node: String,
}

impl Process {
    /// Whether the process is a virtual machine.
    pub fn is_guest(&self) -> bool {
        runs_guests(&self.command)
    }
}

/// Whether a command with this name is a virtual machine.
pub(crate) fn runs_guests(command: &str) -> bool {
    let names = ["qemu", "kvm", "cloud-hyperviso", "crosvm", "firecracker"];
    names.iter().any(|name| command.starts_with(name))
}

/// The processes that have at least one of the given devices open.
#[derive(Debug, Default)]
pub struct Processes {
    by_pid: BTreeMap<u32, Process>,
    /// The number of processes whose open files could not be read.
    pub unseen: usize,
}

impl Processes {
    /// The processes that have one of these devices open or mapped, except for this process.
    ///
    /// Errors: `permission` or `io` when `/proc` cannot be listed.
    pub fn with_open(host: &Host, devices: &BTreeSet<DevT>) -> Result<Self> {
        let mut found = Self::default();
        for process in open_files::other_processes(host)? {
            found.examine(&process, devices);
        }
        Ok(found)
    }

    /// The processes, sorted by id.
    pub fn all(&self) -> impl Iterator<Item = &Process> {
        self.by_pid.values()
    }

    /// Keeps only the processes that are also in `others`.
    #[must_use]
    pub fn retain_in(mut self, others: &Self) -> Self {
        self.by_pid.retain(|pid, _| others.by_pid.contains_key(pid));
        self
    }

    fn examine(&mut self, process: &open_files::Process, devices: &BTreeSet<DevT>) {
        let Ok(mut files) = process.open_files() else {
            self.unseen += 1;
            return;
        };
        let is_one = |file: &OpenFile| file.block_device().is_some_and(|n| devices.contains(&n));
        let mapped = || process.mapped_devices().into_iter().map(|file| process.map_link(&file));
        let Some(file) = files.find(is_one).or_else(|| mapped().find(is_one)) else { return };
        let node = file.path().unwrap_or_default().to_string_lossy().into_owned();
        let command = process.command().unwrap_or_default();
        self.by_pid.insert(process.pid, Process { pid: process.pid, command, node });
    }
}
