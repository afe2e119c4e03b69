//! Finds the processes of virtual machines, and the block devices of the host that each has open.
//!
//! libvirt's definitions are not enough: a libvirtd that is killed while it attaches a disk loses the disk, but QEMU
//! still has it.

use std::collections::BTreeSet;

use common::Result;
use common::system::devt::DevT;
use common::system::open_files;
use common::system::open_files::Process;
use common::system::sysroot::Host;

use crate::availability::processes::runs_guests;

/// The process of a virtual machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VmProcess {
    /// The process id.
    pub pid: u32,
    /// The name of the command, at most 15 bytes.
    pub command: String,
    /// The UUID of the domain that the process runs, from the arguments of libvirt's QEMU.
    pub uuid: Option<String>,
    /// The block devices that the process has open.
    pub devices: BTreeSet<DevT>,
    /// Whether the open files of the process could not be read.
    pub is_hidden: bool,
}

impl VmProcess {
    /// Reads every process of a virtual machine. A process that ends during the read is left out.
    ///
    /// Errors: `permission` or `io` when `/proc` cannot be listed.
    /// Source: proc_pid_cmdline(5), proc_pid_fd(5); libvirt `src/qemu/qemu_command.c`: `-uuid`.
    pub fn all(host: &Host) -> Result<Vec<Self>> {
        Ok(open_files::processes(host)?.iter().filter_map(Self::read).collect())
    }

    fn read(process: &Process) -> Option<Self> {
        let arguments = process.command_line()?;
        let mut arguments = arguments.split(|byte| *byte == 0);
        let uuid = arguments.find(|argument| *argument == b"-uuid").and_then(|_| arguments.next());
        let uuid = uuid.map(|uuid| String::from_utf8_lossy(uuid).into_owned());
        let command = process.command()?;
        if uuid.is_none() && !runs_guests(&command) {
            return None;
        }
        let (devices, is_hidden) = match process.open_files() {
            Ok(files) => (files.filter_map(|file| file.block_device()).collect(), false),
            Err(_) => (BTreeSet::new(), true),
        };
        Some(Self { pid: process.pid, command, uuid, devices, is_hidden })
    }

    /// Whether the process runs the domain with this UUID.
    pub fn runs(&self, uuid: &str) -> bool {
        self.uuid.as_deref().is_some_and(|own| own.eq_ignore_ascii_case(uuid))
    }
}

impl std::fmt::Display for VmProcess {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "process {} ({})", self.pid, self.command)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn only_virtual_machines_are_found() {
        let root = tempfile::tempdir().unwrap();
        let process = |pid: u32, command: &str, arguments: &str| {
            let folder = root.path().join(format!("proc/{pid}"));
            fs::create_dir_all(folder.join("fd")).unwrap();
            fs::write(folder.join("comm"), format!("{command}\n")).unwrap();
            fs::write(folder.join("cmdline"), arguments.replace(' ', "\0")).unwrap();
        };
        process(7, "qemu-system-x86", "/usr/bin/qemu-system-x86_64 -name guest=a -uuid 1-A -S");
        process(8, "my-emulator", "/opt/my-emulator -name guest=b -uuid 2-b");
        process(9, "qemu-nbd", "qemu-nbd -uuid");
        process(10, "sleep", "sleep 1000");
        let mut all = VmProcess::all(&Host::new(root.path())).unwrap();
        all.sort_by_key(|process| process.pid);
        let pids = |uuid: &str| {
            let own = all.iter().filter(|process| process.runs(uuid));
            own.map(|process| process.pid).collect::<Vec<_>>()
        };
        assert_eq!(all.iter().map(|process| process.pid).collect::<Vec<_>>(), [7, 8, 9]);
        assert_eq!((pids("1-a"), pids("2-b"), pids("")), (vec![7], vec![8], vec![]));
    }
}
