//! Finds the domains that use block devices of the host.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use common::Result;
use common::image::local_files::LocalFiles;
use common::image::{FileKey, Images, add_paths, keys};
use common::system::block::controllers_of;
use common::system::pci::Bdf;
use common::system::sysroot::Host;
use common::xml::{Node, host_address};
use virt::connect::Connect;

use crate::availability::guests::{Guest, source_path};
use crate::block::devices::{BlockDevice, BlockDevices};
use crate::block::disk::scsi_address;

/// A domain that uses a device.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct DiskUser {
    /// The name of the domain.
    pub domain: String,
    /// The way of the use, for messages: `as vdb (running)`.
    pub how: String,
    /// Whether the device is a guest disk; otherwise the domain has the controller of the device.
    pub is_disk: bool,
}

/// The host's disks that all domains use, read once for any number of disks.
#[derive(Debug, Default)]
pub struct DiskUse {
    by_block: BTreeMap<String, BTreeSet<DiskUser>>,
    by_controller: BTreeMap<Bdf, BTreeSet<DiskUser>>,
    by_scsi: BTreeMap<String, BTreeSet<DiskUser>>,
    /// The users by a key of the file, for files that may back a loop device.
    by_file: BTreeMap<FileKey, BTreeSet<DiskUser>>,
    /// The users by the path in the definition, for paths of absent devices.
    by_name: BTreeMap<String, BTreeSet<DiskUser>>,
}

impl DiskUse {
    /// Finds the host's disks in the definitions of domains, and the disks that back the images in the definitions.
    ///
    /// Errors: `conflict` for a domain that has a host device with an invalid address.
    pub fn new(
        host: &Host,
        blocks: &BlockDevices,
        guests: &[Guest],
        connect: Option<&Connect>,
        mut images: Images,
    ) -> Result<Self> {
        let mut disk_use = Self::default();
        for guest in guests {
            for (disk, live) in guest.disks() {
                let target = disk.attr_at("target", "dev").unwrap_or_default();
                let state = if live { "running" } else { "in its definition" };
                let user = DiskUser {
                    domain: guest.name.clone(),
                    how: format!("as {target} ({state})"),
                    is_disk: true,
                };
                for bdf in controllers(disk)
                    .map_err(|error| host_address::in_domain(&guest.name, error))?
                {
                    disk_use.by_controller.entry(bdf).or_default().insert(user.clone());
                }
                for path in disk_paths(&mut images, connect, disk) {
                    disk_use.add_path(host, blocks, &path, &user);
                }
            }
            let user = DiskUser {
                domain: guest.name.clone(),
                how: "in an argument for QEMU".to_owned(),
                is_disk: false,
            };
            let mut paths = BTreeSet::new();
            guest.arguments().for_each(|argument| add_paths(&argument, &mut paths));
            for path in paths {
                for below in images.below(&path).paths.into_iter().chain([path]) {
                    disk_use.add_path(host, blocks, &below, &user);
                }
            }
            for hostdev in guest.hostdevs() {
                disk_use
                    .add_hostdev(guest, hostdev)
                    .map_err(|error| host_address::in_domain(&guest.name, error))?;
            }
        }
        Ok(disk_use)
    }

    fn add_hostdev(&mut self, guest: &Guest, hostdev: Node<'_>) -> Result<()> {
        let user = |how: &str| DiskUser {
            domain: guest.name.clone(),
            how: how.to_owned(),
            is_disk: false,
        };
        match hostdev.attr("type").as_deref() {
            Some("pci") => {
                let bdf = host_address::source_pci(hostdev)?;
                let user = user("through the PCI controller of the disk");
                self.by_controller.entry(bdf).or_default().insert(user);
            }
            Some("scsi") => {
                if let Some(address) = host_address::source_scsi(hostdev)? {
                    let user = user("as a SCSI host device");
                    self.by_scsi.entry(address).or_default().insert(user);
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn add_path(&mut self, host: &Host, blocks: &BlockDevices, path: &Path, user: &DiskUser) {
        let path = path.display().to_string();
        if let Some(block) = blocks.at_path(host, &path) {
            self.by_block.entry(block.name.clone()).or_default().insert(user.clone());
            return;
        }
        for key in keys(&host.path(&path)) {
            self.by_file.entry(key).or_default().insert(user.clone());
        }
        self.by_name.entry(path).or_default().insert(user.clone());
    }

    /// The domains that use this device, the file that backs it, or its controller.
    pub fn users_of(
        &self,
        host: &Host,
        block: &BlockDevice,
        names: &[String],
    ) -> BTreeSet<DiskUser> {
        let mut users = BTreeSet::new();
        users.extend(self.by_block.get(&block.name).into_iter().flatten());
        if let Some(backing) = &block.backing {
            let files = keys(&host.path(backing)).filter_map(|key| self.by_file.get(&key));
            users.extend(files.flatten());
        }
        if !self.by_controller.is_empty() {
            for bdf in controllers_of(host, &block.sysfs_path) {
                users.extend(self.by_controller.get(&bdf).into_iter().flatten());
            }
        }
        if !self.by_scsi.is_empty() {
            let address = scsi_address(host, block);
            users.extend(address.and_then(|a| self.by_scsi.get(&a)).into_iter().flatten());
        }
        for name in names {
            users.extend(self.by_name.get(name).into_iter().flatten());
        }
        users.into_iter().cloned().collect()
    }
}

/// The NVMe controllers of the host that a disk element or its chain of backing files names.
fn controllers(disk: Node<'_>) -> Result<Vec<Bdf>> {
    let is_pci =
        |node: &Node<'_>| node.name() == "source" && node.attr("type").as_deref() == Some("pci");
    let sources = disk.descendants().filter(is_pci);
    sources
        .map(|source| {
            let bdf = source.child("address").and_then(host_address::pci);
            bdf.ok_or_else(|| host_address::unclear("PCI", disk))
        })
        .collect()
}

/// The paths that a disk is read from: the paths in its element, and every file that these need.
fn disk_paths(images: &mut Images, connect: Option<&Connect>, disk: Node<'_>) -> BTreeSet<PathBuf> {
    let sources = disk.descendants().filter(|node| node.name() == "source");
    let mut paths = BTreeSet::new();
    for name in sources.filter_map(|source| source_path(connect, source)) {
        let local = LocalFiles::parse(name.as_bytes());
        // libvirt also treats a name with a colon as a path.
        let named = local.files.iter().flat_map(|file| file.paths_from(Path::new("/")));
        paths.extend(named.chain([PathBuf::from(name)]));
    }
    let below: Vec<PathBuf> = paths.iter().flat_map(|path| images.below(path).paths).collect();
    paths.extend(below);
    paths
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use common::xml::Document;

    use super::*;

    /// A machine with a SCSI disk behind a PCI device, and a loop device over a partition of it.
    fn machine() -> (tempfile::TempDir, Host) {
        let root = tempfile::tempdir().unwrap();
        let scsi = "devices/pci0000:00/0000:00:17.0/ata1/host3/target3:0:0/3:0:0:1";
        let sda = format!("{scsi}/block/sda");
        let blocks = [
            ("sda", sda.clone(), "8:0"),
            ("sda1", format!("{sda}/sda1"), "8:1"),
            ("loop0", "devices/virtual/block/loop0".to_owned(), "7:0"),
        ];
        let sys = root.path().join("sys");
        fs::create_dir_all(sys.join("class/block")).unwrap();
        fs::create_dir_all(root.path().join("dev")).unwrap();
        for (name, place, number) in blocks {
            fs::create_dir_all(sys.join(&place)).unwrap();
            fs::write(sys.join(&place).join("dev"), number).unwrap();
            symlink(format!("../../{place}"), sys.join("class/block").join(name)).unwrap();
            fs::write(root.path().join("dev").join(name), "").unwrap();
        }
        fs::write(sys.join(&sda).join("sda1/partition"), "1").unwrap();
        fs::create_dir_all(sys.join(&sda).join("device")).unwrap();
        fs::write(sys.join(&sda).join("device/type"), "0").unwrap();
        fs::create_dir_all(sys.join("devices/virtual/block/loop0/loop")).unwrap();
        fs::write(sys.join("devices/virtual/block/loop0/loop/backing_file"), "/dev/sda1").unwrap();
        symlink("sda", root.path().join("dev/by-name")).unwrap();
        let host = Host::new(root.path());
        (root, host)
    }

    fn users(devices: &str) -> Vec<String> {
        let (_root, host) = machine();
        let blocks = BlockDevices::read(&host).unwrap();
        let xml = format!("<domain><devices>{devices}</devices></domain>");
        let config = Some(Document::parse(xml).unwrap());
        let guest = Guest { name: "g".to_owned(), live: None, config, other: Vec::new() };
        let disk_use = DiskUse::new(&host, &blocks, &[guest], None, Images::new(&host)).unwrap();
        let names = ["/dev/disk/by-id/gone".to_owned()];
        let stack = blocks.stack("sda");
        assert_eq!(stack.len(), 3, "{stack:?}");
        let all = stack.iter().flat_map(|block| disk_use.users_of(&host, block, &names));
        all.map(|user| user.how).collect()
    }

    #[test]
    fn users_of_finds_a_disk_under_any_name() {
        let disk =
            |source: &str| users(&format!("<disk type='block'>{source}<target dev='vdb'/></disk>"));
        let as_vdb = ["as vdb (in its definition)"];
        assert_eq!(disk("<source dev='/dev/sda'/>"), as_vdb);
        assert_eq!(disk("<source dev='/dev/by-name'/>"), as_vdb);
        assert_eq!(disk("<source dev='/dev/../dev/sda1'/>"), as_vdb);
        assert_eq!(disk("<source file='/dev/loop0'/>"), as_vdb);
        assert_eq!(disk("<source dev='/dev/sdaa'/>"), [""; 0]);
        // What leads nowhere now may be this one under a name that it had.
        assert!(!disk("<source dev='/dev/disk/by-id/gone'/>").is_empty());
        let chain = "<source file='/x'/><backingStore type='file'><source file='/y'/>\
            <backingStore type='block'><source dev='/dev/sda'/></backingStore></backingStore>";
        assert_eq!(disk(chain), as_vdb);
        let (_root, host) = machine();
        let snapshot = "<domainsnapshot><domain><devices><disk><source dev='/dev/sda'/></disk>\
            </devices></domain></domainsnapshot>";
        let other = vec![Document::parse(snapshot).unwrap()];
        let guest = Guest { name: "s".to_owned(), live: None, config: None, other };
        let blocks = BlockDevices::read(&host).unwrap();
        let disk_use = DiskUse::new(&host, &blocks, &[guest], None, Images::new(&host)).unwrap();
        assert_eq!(disk_use.users_of(&host, blocks.named("sda").unwrap(), &[]).len(), 1);
        let nvme = "<source type='pci' managed='yes' namespace='1'>\
            <address domain='0x0000' bus='0x00' slot='0x17' function='0x0'/></source>";
        assert_eq!(disk(nvme).first().map(String::as_str), Some("as vdb (in its definition)"));
    }

    #[test]
    fn a_host_device_with_an_invalid_address_is_a_conflict() {
        let (_root, host) = machine();
        let blocks = BlockDevices::read(&host).unwrap();
        let read = |device: &str| {
            let xml = format!("<domain><devices>{device}</devices></domain>");
            let config = Some(Document::parse(xml).unwrap());
            let guest = Guest { name: "g".to_owned(), live: None, config, other: Vec::new() };
            DiskUse::new(&host, &blocks, &[guest], None, Images::new(&host)).map(drop)
        };
        let pci = "<address domain='0x0000' bus='0x00' slot='0x1f' function='0x0'/>";
        for (good, bad) in [("0x1f", "0x20"), ("0x1f", "one"), ("function='0x0'", "")] {
            for device in [
                format!("<hostdev type='pci'><source>{pci}</source></hostdev>"),
                format!("<disk type='nvme'><source type='pci'>{pci}</source></disk>"),
                format!(
                    "<disk type='file'><source file='/x'/><backingStore type='nvme'>\
                     <source type='pci'>{pci}</source></backingStore></disk>"
                ),
            ] {
                assert!(read(&device).is_ok(), "{device}");
                let device = device.replace(good, bad);
                let error = read(&device).unwrap_err();
                assert_eq!(error.kind().exit_code(), 5, "{device}: {error}");
            }
        }
        let scsi = |source: &str| read(&format!("<hostdev type='scsi'>{source}</hostdev>"));
        let source =
            "<source><adapter name='scsi_host3'/><address bus='0' target='0' unit='x'/></source>";
        assert!(scsi(source).is_err());
        assert!(scsi(&source.replace('x', "1")).is_ok());
        assert!(scsi("<source protocol='iscsi' name='iqn.2014-08.com.example:tgt/1'/>").is_ok());
    }

    #[test]
    fn a_disk_in_an_argument_for_qemu_is_used_by_the_domain() {
        let (_root, host) = machine();
        let blocks = BlockDevices::read(&host).unwrap();
        let xml = "<domain xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>\
            <qemu:commandline><qemu:arg value='-drive'/>\
            <qemu:arg value='if=none,file=/dev/sda1,format=raw'/></qemu:commandline></domain>";
        let config = Some(Document::parse(xml.to_owned()).unwrap());
        let guest = Guest { name: "g".to_owned(), live: None, config, other: Vec::new() };
        let disk_use = DiskUse::new(&host, &blocks, &[guest], None, Images::new(&host)).unwrap();
        let users = disk_use.users_of(&host, blocks.named("sda1").unwrap(), &[]);
        assert_eq!(users.first().unwrap().how, "in an argument for QEMU");
    }

    #[test]
    fn a_domain_with_a_controller_uses_its_disks() {
        let pci = |slot: &str| {
            users(&format!(
                "<hostdev mode='subsystem' type='pci'><source>\
                 <address domain='0x0000' bus='0x00' slot='{slot}' function='0x0'/></source></hostdev>"
            ))
        };
        assert_eq!(pci("0x17")[0], "through the PCI controller of the disk");
        assert_eq!(pci("0x18"), [""; 0]);
        let scsi = |unit: u32| {
            users(&format!(
                "<hostdev mode='subsystem' type='scsi'><source><adapter name='scsi_host3'/>\
                 <address bus='0' target='0' unit='{unit}'/></source></hostdev>"
            ))
        };
        assert_eq!(scsi(1), ["as a SCSI host device"]);
        assert_eq!(scsi(0), [""; 0]);
    }
}
