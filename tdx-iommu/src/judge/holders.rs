//! Finds the processes that have devices open. Reads the open files of every process, which takes time.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::time::Duration;

use common::Result;
use common::system::devt::DevT;
use common::system::open_files;
use common::system::open_files::{OpenDevice, OpenFile, Process};
use common::system::pci::Bdf;
use common::system::sysroot::Host;
use rustix::fs::{Mode, OFlags};
use walkdir::{DirEntry, WalkDir};

use crate::inventory::Inventory;
use crate::inventory::usage::disks::disks_of;

/// How long a process may have a device open without counting as a user, such as udev with a new disk.
const GLANCE: Duration = Duration::from_millis(200);

/// A process that has a device open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// The process id.
    pub pid: u32,
    /// The name of the command, at most 15 bytes.
    pub command: String,
    /// The path of the device node, as the process sees it.
    pub node: String,
    /// Whether the node belongs to VFIO; otherwise it belongs to a driver of the host.
    pub by_vfio: bool,
}

/// The processes that have devices open, by device.
#[derive(Debug, Default)]
pub struct Holders {
    by_device: BTreeMap<Bdf, Vec<Holder>>,
    /// The number of processes whose open files could not be read.
    pub unseen: usize,
}

/// The device nodes to look for, and the devices that each node belongs to.
#[derive(Debug, Default)]
struct NodeOwners {
    by_node: BTreeMap<OpenDevice, Vec<Bdf>>,
    of_vfio: BTreeSet<OpenDevice>,
}

impl Holders {
    /// The processes that have the VFIO node of one of these devices open, of its IOMMU group, or of another device
    /// in its group. Each of these nodes gives access to the whole group.
    ///
    /// Errors: `permission` or `io` when `/proc` cannot be listed.
    /// Source: Linux `Documentation/ABI/testing/sysfs-devices-vfio-dev`; proc_pid_fd(5).
    pub fn of_vfio(
        host: &Host,
        inventory: &Inventory,
        devices: impl IntoIterator<Item = Bdf>,
    ) -> Result<Self> {
        Self::find(host, &NodeOwners::of_vfio(host, inventory, devices))
    }

    /// The processes that have a node of one of these devices open or mapped: the VFIO node, or a node that a driver
    /// of the host created for the device or for a disk on it. A process that closes the node at once, as udev does,
    /// is left out.
    ///
    /// Errors: `permission` or `io` when `/proc` cannot be listed.
    pub fn of_any_node(
        host: &Host,
        inventory: &Inventory,
        devices: &BTreeSet<Bdf>,
    ) -> Result<Self> {
        let mut owners = NodeOwners::of_vfio(host, inventory, devices.iter().copied());
        owners.add_drivers(host, inventory, devices);
        let mut holders = Self::find(host, &owners)?;
        let found = holders.by_device.values().flatten().filter(|holder| !holder.by_vfio);
        let found: BTreeSet<u32> = found.map(|holder| holder.pid).collect();
        if !found.is_empty() {
            std::thread::sleep(GLANCE);
            let mut again = Self::default();
            for pid in found {
                again.examine(&Process::with_pid(host, pid), &owners);
            }
            for (bdf, holders) in &mut holders.by_device {
                holders.retain(|holder| holder.by_vfio || again.holders_of(*bdf).contains(holder));
            }
        }
        Ok(holders)
    }

    fn find(host: &Host, owners: &NodeOwners) -> Result<Self> {
        let mut holders = Self::default();
        if owners.by_node.is_empty() {
            return Ok(holders);
        }
        // This process closes its own files before it changes anything.
        for process in open_files::other_processes(host)? {
            holders.examine(&process, owners);
        }
        Ok(holders)
    }

    /// The holders of one device.
    pub fn holders_of(&self, bdf: Bdf) -> &[Holder] {
        self.by_device.get(&bdf).map_or(&[], Vec::as_slice)
    }

    fn examine(&mut self, process: &Process, owners: &NodeOwners) {
        let Ok(files) = process.open_files() else {
            self.unseen += 1;
            return;
        };
        for file in files {
            // The name is tested first, because that is faster than reading the file's metadata.
            let Ok(node) = file.path() else { continue };
            let node = node.to_string_lossy();
            if node.contains("/dev/") || node.contains("vfio") {
                self.add_if_owned(process, &node, &file, owners);
            }
        }
        let mut mapped = process.mapped_devices();
        mapped.sort_unstable();
        mapped.dedup_by(|one, other| one.path == other.path);
        for mapped in mapped {
            let file = process.path_in_root(&mapped);
            self.add_if_owned(process, &mapped.path, &file, owners);
        }
    }

    /// Adds a process as a holder of the devices whose node it has open.
    fn add_if_owned(
        &mut self,
        process: &Process,
        name: &str,
        file: &OpenFile,
        owners: &NodeOwners,
    ) {
        let Some(node) = file.device() else { return };
        let by_vfio = owners.of_vfio.contains(&node);
        for bdf in owners.by_node.get(&node).into_iter().flatten() {
            let holders = self.by_device.entry(*bdf).or_default();
            let is_known = |holder: &Holder| (holder.pid, holder.by_vfio) == (process.pid, by_vfio);
            if !holders.iter().any(is_known) {
                let command = process.command().unwrap_or_default();
                let (pid, node) = (process.pid, name.to_owned());
                holders.push(Holder { pid, command, node, by_vfio });
            }
        }
    }
}

impl NodeOwners {
    /// The nodes that give access to the IOMMU groups of these devices.
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

    /// Adds the nodes that drivers of the host created: those with a device number below the device in sysfs, those of
    /// its disks, and the nodes of NVIDIA's driver, which are listed only in procfs.
    fn add_drivers(&mut self, host: &Host, inventory: &Inventory, devices: &BTreeSet<Bdf>) {
        let is_endpoint = |bdf: &&Bdf| inventory.devices.get(bdf).is_some_and(|d| !d.is_bridge);
        let mut nodes = Vec::new();
        for &bdf in devices.iter().filter(is_endpoint) {
            let below = nodes_below(&host.path(format!("/sys/bus/pci/devices/{bdf}")));
            nodes.extend(below.chain(nvidia(host, bdf)).map(|node| (bdf, node)));
        }
        for (bdf, disk) in disks_of(host, devices) {
            let below = nodes_below(&host.path(format!("/sys/block/{disk}")));
            nodes.extend(below.map(|node| (bdf, node)));
        }
        for (bdf, node) in nodes {
            let owners = self.by_node.entry(node).or_default();
            if !owners.contains(&bdf) {
                owners.push(bdf);
            }
        }
    }
}

/// The nodes of a device in sysfs and of all devices below its directory.
fn nodes_below(directory: &Path) -> impl Iterator<Item = OpenDevice> + use<> {
    // The VFIO nodes are already known, and the other directories never contain a device number.
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
    // The device itself may be a link. Links below it are not followed.
    let is_walked = |entry: &DirEntry| {
        let is_left_out = WITHOUT.iter().any(|name| entry.file_name() == *name);
        entry.depth() == 0 || entry.file_type().is_dir() && !is_left_out
    };
    let directories = WalkDir::new(directory).into_iter().filter_entry(is_walked).flatten();
    directories.filter_map(|entry| node(entry.path()))
}

/// The node of the device with this directory in sysfs.
///
/// Source: Linux `Documentation/ABI/stable/sysfs-devices`, `dev` and `subsystem`.
fn node(directory: &Path) -> Option<OpenDevice> {
    let text = fs::read_to_string(directory.join("dev")).ok()?;
    let number = text.trim().parse().ok()?;
    let subsystem = fs::read_link(directory.join("subsystem"));
    let is_block = subsystem.is_ok_and(|subsystem| subsystem.ends_with("block"));
    Some(OpenDevice { is_block, number })
}

/// The node that NVIDIA's driver created for a GPU.
///
/// Source: NVIDIA's driver, README, "procfs interface"; Linux `Documentation/admin-guide/devices.txt`.
fn nvidia(host: &Host, bdf: Bdf) -> Option<OpenDevice> {
    const MAJOR: u32 = 195;
    let text = host.read(&format!("/proc/driver/nvidia/gpus/{bdf}/information")).ok()??;
    let minor = text.lines().find_map(|line| line.strip_prefix("Device Minor:"))?;
    let number = DevT { major: MAJOR, minor: minor.trim().parse().ok()? };
    Some(OpenDevice { is_block: false, number })
}

/// The nodes that give access to an IOMMU group.
fn vfio_nodes(host: &Host, inventory: &Inventory, number: u32) -> Vec<OpenDevice> {
    let group = |prefix: &str| host.path(format!("/sys/class/vfio/{prefix}{number}"));
    let mut folders = vec![group(""), group("noiommu-")];
    let members = inventory.groups.get(&number).into_iter().flat_map(|group| &group.members);
    for member in members {
        let folder = host.path(format!("/sys/bus/pci/devices/{member}/vfio-dev"));
        folders.extend(fs::read_dir(folder).into_iter().flatten().flatten().map(|n| n.path()));
    }
    folders.iter().filter_map(|folder| node(folder)).collect()
}

/// Whether the kernel has claimed this disk: it is mounted or part of another device, even if sysfs does not show that,
/// as for ZFS. None when the disk cannot be opened.
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
    fn nvidia_reads_the_minor_number_of_a_gpu() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("proc/driver/nvidia/gpus/0000:17:00.0");
        fs::create_dir_all(&folder).unwrap();
        let text = "Model: \t\t NVIDIA H100 80GB HBM3\nBus Location: \t 0000:17:00.0\n\
            Device Minor: \t 3\nGPU Excluded:\t No\n";
        fs::write(folder.join("information"), text).unwrap();
        let host = Host::new(root.path());
        let node = nvidia(&host, "17:00.0".parse().unwrap());
        let number = DevT { major: 195, minor: 3 };
        assert_eq!(node, Some(OpenDevice { is_block: false, number }));
        assert_eq!(nvidia(&host, "18:00.0".parse().unwrap()), None);
    }
}
