//! Who has devices open. Looks at the open files of every process, which takes its time.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use common::host::Host;
use common::pci::Bdf;
use common::{IoContext, Result};
use rustix::fs::{Mode, OFlags};

use crate::inventory::Inventory;

/// A process that has a device open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// Process id.
    pub pid: u32,
    /// The command's name, 15 bytes at most.
    pub command: String,
    /// The node, by the name the process knows it by.
    pub node: String,
}

/// What is known of the holders.
#[derive(Debug, Default)]
pub struct Holders {
    by_device: BTreeMap<Bdf, Vec<Holder>>,
    /// How many processes did not show their files: those of others, without root.
    pub unseen: usize,
}

impl Holders {
    /// Who has the VFIO node of one of these devices open, or that of its group, or of another device
    /// in its group: any of them has the whole group.
    ///
    /// Errors: `permission` or `io` when `/proc` cannot be listed.
    /// Source: Linux `Documentation/ABI/testing/sysfs-devices-vfio-dev`; proc_pid_fd(5).
    pub fn of_vfio(
        host: &Host,
        inventory: &Inventory,
        devices: impl IntoIterator<Item = Bdf>,
    ) -> Result<Self> {
        let mut groups = BTreeMap::<u32, Vec<Bdf>>::new();
        for bdf in devices {
            if let Some(number) = inventory.devices.get(&bdf).and_then(|device| device.group) {
                groups.entry(number).or_default().push(bdf);
            }
        }
        let mut owners = BTreeMap::<u64, Vec<Bdf>>::new();
        for (number, devices) in groups {
            for node in vfio_nodes(host, inventory, number) {
                owners.insert(node, devices.clone());
            }
        }
        let mut holders = Self::default();
        if owners.is_empty() {
            return Ok(holders);
        }
        let proc = host.path("/proc");
        for entry in fs::read_dir(&proc).at("read", &proc)? {
            let name = entry.at("read", &proc)?.file_name();
            if let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) {
                holders.look_at(&proc.join(name), pid, &owners);
            }
        }
        Ok(holders)
    }

    /// The holders of one device.
    pub fn of(&self, bdf: Bdf) -> &[Holder] {
        self.by_device.get(&bdf).map_or(&[], Vec::as_slice)
    }

    fn look_at(&mut self, process: &Path, pid: u32, owners: &BTreeMap<u64, Vec<Bdf>>) {
        let files = match fs::read_dir(process.join("fd")) {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                self.unseen += 1;
                return;
            }
            // A process that ended meanwhile holds nothing.
            Err(_) => return,
            Ok(files) => files,
        };
        for file in files.flatten() {
            let link = file.path();
            // By name first: looking at a file itself can hang, where its server is gone.
            let Ok(node) = fs::read_link(&link) else { continue };
            let node = node.to_string_lossy();
            if !node.contains("vfio") {
                continue;
            }
            let device = fs::metadata(&link).map(|metadata| metadata.rdev());
            for bdf in device.ok().and_then(|device| owners.get(&device)).into_iter().flatten() {
                let holders = self.by_device.entry(*bdf).or_default();
                if holders.iter().all(|holder| holder.pid != pid) {
                    let command = fs::read_to_string(process.join("comm")).unwrap_or_default();
                    let command = command.trim_end().to_owned();
                    holders.push(Holder { pid, command, node: node.clone().into_owned() });
                }
            }
        }
    }
}

/// Device numbers of the nodes that give a process this group.
fn vfio_nodes(host: &Host, inventory: &Inventory, number: u32) -> Vec<u64> {
    let group = |prefix: &str| host.path(format!("/sys/class/vfio/{prefix}{number}/dev"));
    let mut files = vec![group(""), group("noiommu-")];
    let members = inventory.groups.get(&number).into_iter().flat_map(|group| &group.members);
    for member in members {
        let folder = host.path(format!("/sys/bus/pci/devices/{member}/vfio-dev"));
        let nodes = fs::read_dir(folder).into_iter().flatten().flatten();
        files.extend(nodes.map(|node| node.path().join("dev")));
    }
    let number = |file: std::path::PathBuf| {
        let text = fs::read_to_string(file).ok()?;
        let (major, minor) = text.trim().split_once(':')?;
        Some(rustix::fs::makedev(major.parse().ok()?, minor.parse().ok()?))
    };
    files.into_iter().filter_map(number).collect()
}

/// Whether the kernel itself has this disk claimed: mounted by anyone, or part of something, even
/// where sysfs does not tell, as with ZFS. None when it cannot be seen.
///
/// Source: Linux `block/bdev.c`: an exclusive open fails with EBUSY then.
pub fn is_claimed(host: &Host, disk: &str) -> Option<bool> {
    let node = host.path(format!("/dev/{disk}"));
    let flags = OFlags::RDONLY | OFlags::EXCL | OFlags::NONBLOCK | OFlags::CLOEXEC;
    match rustix::fs::open(node, flags, Mode::empty()) {
        Ok(_) => Some(false),
        Err(rustix::io::Errno::BUSY) => Some(true),
        Err(_) => None,
    }
}
