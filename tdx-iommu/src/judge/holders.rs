//! Who has devices open. Looks at the open files of every process, which takes its time.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::time::Duration;

use common::system::pci::Bdf;
use common::system::sysroot::Host;
use common::{IoContext, Result};
use rustix::fs::{Mode, OFlags};

use crate::inventory::Inventory;
use crate::inventory::usage::disks::disks_of;

/// How long a process may have a device open that only looks at it: udev at a disk that is new.
const GLANCE: Duration = Duration::from_millis(200);

/// A process that has a device open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// Process id.
    pub pid: u32,
    /// The command's name, 15 bytes at most.
    pub command: String,
    /// The node, by the name the process knows it by.
    pub node: String,
    /// Whether it is VFIO's node; if not, that of a driver of the host.
    pub by_vfio: bool,
}

/// What is known of the holders.
#[derive(Debug, Default)]
pub struct Holders {
    by_device: BTreeMap<Bdf, Vec<Holder>>,
    /// How many processes did not show their files: those of others, without root.
    pub unseen: usize,
}

/// A device node: whether of a block device, and its number.
type Node = (bool, u64);

/// Whose nodes are looked for.
#[derive(Debug, Default)]
struct Owners {
    by_node: BTreeMap<Node, Vec<Bdf>>,
    of_vfio: BTreeSet<Node>,
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
        Self::of(host, &Owners::of_vfio(host, inventory, devices))
    }

    /// The same, and who has a node open that a driver of the host made for one of these devices or a
    /// disk on it; or has it mapped. Who only glances at it is none.
    ///
    /// Errors: `permission` or `io` when `/proc` cannot be listed.
    pub fn of_any_node(
        host: &Host,
        inventory: &Inventory,
        devices: &BTreeSet<Bdf>,
    ) -> Result<Self> {
        let mut owners = Owners::of_vfio(host, inventory, devices.iter().copied());
        owners.add_drivers(host, inventory, devices);
        let mut holders = Self::of(host, &owners)?;
        let found = holders.by_device.values().flatten().filter(|holder| !holder.by_vfio);
        let found: BTreeSet<u32> = found.map(|holder| holder.pid).collect();
        if !found.is_empty() {
            std::thread::sleep(GLANCE);
            let mut again = Self::default();
            found.into_iter().for_each(|pid| again.look_at(host, pid, &owners));
            for (bdf, holders) in &mut holders.by_device {
                holders.retain(|holder| holder.by_vfio || again.on(*bdf).contains(holder));
            }
        }
        Ok(holders)
    }

    fn of(host: &Host, owners: &Owners) -> Result<Self> {
        let mut holders = Self::default();
        if owners.by_node.is_empty() {
            return Ok(holders);
        }
        let proc = host.path("/proc");
        for entry in fs::read_dir(&proc).at("read", &proc)? {
            let name = entry.at("read", &proc)?.file_name();
            let pid = name.to_str().and_then(|name| name.parse().ok());
            // What this process has open is closed again before anything is done.
            if let Some(pid) = pid.filter(|pid| *pid != std::process::id()) {
                holders.look_at(host, pid, owners);
            }
        }
        Ok(holders)
    }

    /// The holders of one device.
    pub fn on(&self, bdf: Bdf) -> &[Holder] {
        self.by_device.get(&bdf).map_or(&[], Vec::as_slice)
    }

    fn look_at(&mut self, host: &Host, pid: u32, owners: &Owners) {
        let process = host.path(format!("/proc/{pid}"));
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
            if node.contains("/dev/") || node.contains("vfio") {
                self.meet(&process, pid, &node, &link, owners);
            }
        }
        // What is mapped may be open no more.
        let maps = fs::read(process.join("maps")).unwrap_or_default();
        let maps = String::from_utf8_lossy(&maps);
        let nodes = maps.lines().filter_map(|line| Some(&line[line.find(" /dev/")? + 1..]));
        for node in nodes.collect::<BTreeSet<_>>() {
            let file = process.join("root").join(node.trim_start_matches('/'));
            self.meet(&process, pid, node, &file, owners);
        }
    }

    /// A process has this file open.
    fn meet(&mut self, process: &Path, pid: u32, name: &str, file: &Path, owners: &Owners) {
        let Ok(metadata) = fs::metadata(file) else { return };
        let node = (metadata.file_type().is_block_device(), metadata.rdev());
        let by_vfio = owners.of_vfio.contains(&node);
        for bdf in owners.by_node.get(&node).into_iter().flatten() {
            let holders = self.by_device.entry(*bdf).or_default();
            let known = |holder: &Holder| (holder.pid, holder.by_vfio) == (pid, by_vfio);
            if !holders.iter().any(known) {
                let command = fs::read_to_string(process.join("comm")).unwrap_or_default();
                let command = command.trim_end().to_owned();
                holders.push(Holder { pid, command, node: name.to_owned(), by_vfio });
            }
        }
    }
}

impl Owners {
    /// The nodes that give a process the groups of these devices.
    fn of_vfio(host: &Host, inventory: &Inventory, devices: impl IntoIterator<Item = Bdf>) -> Self {
        let mut groups = BTreeMap::<u32, Vec<Bdf>>::new();
        for bdf in devices {
            if let Some(number) = inventory.devices.get(&bdf).and_then(|device| device.group) {
                groups.entry(number).or_default().push(bdf);
            }
        }
        let mut owners = Self::default();
        for (number, devices) in groups {
            for node in vfio_nodes(host, inventory, number) {
                owners.by_node.insert(node, devices.clone());
                owners.of_vfio.insert(node);
            }
        }
        owners
    }

    /// The nodes that drivers of the host made: all that have a number below the device, its disks, and
    /// what NVIDIA's driver, which has no such numbers, tells in its own place.
    fn add_drivers(&mut self, host: &Host, inventory: &Inventory, devices: &BTreeSet<Bdf>) {
        let is_endpoint = |bdf: &&Bdf| inventory.devices.get(bdf).is_some_and(|d| !d.is_bridge);
        let mut nodes = Vec::new();
        for &bdf in devices.iter().filter(is_endpoint) {
            let mut found = Vec::new();
            below(&host.path(format!("/sys/bus/pci/devices/{bdf}")), &mut found);
            found.extend(nvidia(host, bdf));
            nodes.extend(found.into_iter().map(|node| (bdf, node)));
        }
        for (bdf, disk) in disks_of(host, devices) {
            let mut found = Vec::new();
            below(&host.path(format!("/sys/block/{disk}")), &mut found);
            nodes.extend(found.into_iter().map(|node| (bdf, node)));
        }
        for (bdf, node) in nodes {
            let owners = self.by_node.entry(node).or_default();
            if !owners.contains(&bdf) {
                owners.push(bdf);
            }
        }
    }
}

/// The nodes of a device in sysfs and of all below it.
fn below(folder: &Path, nodes: &mut Vec<Node>) {
    nodes.extend(node(folder));
    // VFIO's are known, and in the others there never is a node.
    const WITHOUT: [&str; 13] = [
        "vfio-dev",
        "power",
        "msi_irqs",
        "link",
        "hwmon",
        "statistics",
        "queues",
        "queue",
        "mq",
        "holders",
        "slaves",
        "integrity",
        "trace",
    ];
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
        if is_folder && !WITHOUT.iter().any(|name| entry.file_name() == *name) {
            below(&entry.path(), nodes);
        }
    }
}

/// The node of what is at one place in sysfs.
///
/// Source: Linux `Documentation/ABI/stable/sysfs-devices`, `dev` and `subsystem`.
fn node(folder: &Path) -> Option<Node> {
    let text = fs::read_to_string(folder.join("dev")).ok()?;
    let (major, minor) = text.trim().split_once(':')?;
    let number = rustix::fs::makedev(major.parse().ok()?, minor.parse().ok()?);
    let subsystem = fs::read_link(folder.join("subsystem"));
    let is_block = subsystem.is_ok_and(|subsystem| subsystem.ends_with("block"));
    Some((is_block, number))
}

/// The node that NVIDIA's driver has for a GPU.
///
/// Source: NVIDIA's driver, README, "procfs interface"; Linux `Documentation/admin-guide/devices.txt`.
fn nvidia(host: &Host, bdf: Bdf) -> Option<Node> {
    const MAJOR: u32 = 195;
    let text = host.read(&format!("/proc/driver/nvidia/gpus/{bdf}/information")).ok()??;
    let minor = text.lines().find_map(|line| line.strip_prefix("Device Minor:"))?;
    Some((false, rustix::fs::makedev(MAJOR, minor.trim().parse().ok()?)))
}

/// The nodes that give a process this group.
fn vfio_nodes(host: &Host, inventory: &Inventory, number: u32) -> Vec<Node> {
    let group = |prefix: &str| host.path(format!("/sys/class/vfio/{prefix}{number}"));
    let mut folders = vec![group(""), group("noiommu-")];
    let members = inventory.groups.get(&number).into_iter().flat_map(|group| &group.members);
    for member in members {
        let folder = host.path(format!("/sys/bus/pci/devices/{member}/vfio-dev"));
        folders.extend(fs::read_dir(folder).into_iter().flatten().flatten().map(|n| n.path()));
    }
    folders.iter().filter_map(|folder| node(folder)).collect()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nvidias_driver_tells_the_minor_of_a_gpu() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("proc/driver/nvidia/gpus/0000:17:00.0");
        fs::create_dir_all(&folder).unwrap();
        let text = "Model: \t\t NVIDIA H100 80GB HBM3\nBus Location: \t 0000:17:00.0\n\
            Device Minor: \t 3\nGPU Excluded:\t No\n";
        fs::write(folder.join("information"), text).unwrap();
        let host = Host::new(root.path());
        let node = nvidia(&host, "17:00.0".parse().unwrap());
        assert_eq!(node, Some((false, rustix::fs::makedev(195, 3))));
        assert_eq!(nvidia(&host, "18:00.0".parse().unwrap()), None);
    }
}
