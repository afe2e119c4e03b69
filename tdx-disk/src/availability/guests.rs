//! The domains of libvirt and what they have of the host's block devices.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use common::image::name::LocalFiles;
use common::image::{FileKey, Images, add_paths, keys};
use common::libvirt::{Context, Libvirt, is_gone};
use common::system::pci::Bdf;
use common::system::sysroot::Host;
use common::xml::{Document, Node, host_address};
use common::{Result, parallel};
use virt::connect::Connect;
use virt::domain::Domain;
use virt::sys;

use crate::block::devices::{Block, Blocks};

/// A domain: as it runs, and as it would start next.
#[derive(Debug)]
pub struct Guest {
    /// Name.
    pub name: String,
    /// What it is now, while it runs.
    pub live: Option<Document>,
    /// What it would be at its next start, where it has a definition that stays.
    pub config: Option<Document>,
    /// What it would go on with where it was suspended to disk, or after going back to a snapshot.
    other: Vec<Document>,
}

impl Guest {
    /// Reads a domain; none when it went away meanwhile.
    pub fn read(libvirt: &Libvirt, domain: &Domain) -> Result<Option<Self>> {
        Self::read_with(libvirt, domain, true, true)
    }

    /// The same without a look for what it is known not to have: a saved state, snapshots.
    fn read_with(
        libvirt: &Libvirt,
        domain: &Domain,
        saved: bool,
        snapshots: bool,
    ) -> Result<Option<Self>> {
        match Self::try_read(libvirt, domain, saved, snapshots) {
            Err(error) if error.kind() == common::ErrorKind::NotFound => Ok(None),
            read => read.map(Some),
        }
    }

    fn try_read(libvirt: &Libvirt, domain: &Domain, saved: bool, snapshots: bool) -> Result<Self> {
        let name = domain.name().context("ask a domain for its name")?;
        let doing = format_args!("read domain '{name}'");
        let is_active = domain.is_active().context(doing)?;
        let is_persistent = domain.is_persistent().context(doing)?;
        let read = |flags| match domain.xml_desc(flags) {
            Ok(text) => Document::parse(text).map(Some),
            Err(error) => Err(error).context(doing),
        };
        let live = if is_active { read(0)? } else { None };
        let config = if is_persistent { read(sys::VIR_DOMAIN_XML_INACTIVE)? } else { None };
        let mut other = Vec::new();
        if saved && !is_active {
            other.extend(libvirt.managed_save_xml(domain)?.map(Document::parse).transpose()?);
        }
        let snapshots = if snapshots { domain.list_all_snapshots(0) } else { Ok(Vec::new()) };
        for snapshot in snapshots.context(doing)? {
            match snapshot.xml_desc(0) {
                Err(error) if is_gone(&error) => {}
                xml => other.push(Document::parse(xml.context(doing)?)?),
            }
        }
        Ok(Self { name, live, config, other })
    }

    /// Its UUID, by its definitions.
    pub fn uuid(&self) -> Option<String> {
        self.live.iter().chain(&self.config).find_map(|document| document.root().text_at("uuid"))
    }

    /// The same domain as if it had nothing but its running definition.
    pub fn running(&self) -> Self {
        Self { name: self.name.clone(), live: self.live.clone(), config: None, other: Vec::new() }
    }

    /// The disk elements, each with whether it is what runs.
    pub fn disks(&self) -> impl Iterator<Item = (Node<'_>, bool)> {
        let live = self.live.iter().flat_map(|live| devices(live, "disk"));
        let rest = self.config.iter().chain(&self.other).flat_map(|rest| devices(rest, "disk"));
        live.map(|disk| (disk, true)).chain(rest.map(|disk| (disk, false)))
    }

    /// The arguments that a definition passes on to QEMU.
    fn arguments(&self) -> impl Iterator<Item = Cow<'_, str>> {
        let documents = self.live.iter().chain(&self.config).chain(&self.other);
        let nodes = documents.flat_map(|document| document.root().descendants());
        let is_argument = |node: &Node<'_>| {
            let parent = node.parent().map(Node::local_name);
            node.local_name() == "arg" && parent == Some("commandline")
        };
        nodes.filter(is_argument).filter_map(|node| node.attr("value"))
    }

    fn hostdevs(&self) -> impl Iterator<Item = Node<'_>> {
        let documents = self.live.iter().chain(&self.config).chain(&self.other);
        documents.flat_map(|document| devices(document, "hostdev"))
    }
}

/// The devices of this kind in a domain, or in the two that a snapshot holds.
fn devices<'d>(document: &'d Document, kind: &str) -> Vec<Node<'d>> {
    let root = document.root();
    let paths = ["devices/", "domain/devices/", "inactiveDomain/devices/"];
    let paths = paths.map(|path| format!("{path}{kind}"));
    paths.iter().flat_map(|path| root.find_all(path).collect::<Vec<_>>()).collect()
}

/// Every domain.
pub fn all(libvirt: &Libvirt) -> Result<Vec<Guest>> {
    let list = |flags| libvirt.connect().list_all_domains(flags).context("list domains");
    let names = |flags| -> Result<BTreeSet<String>> {
        Ok(list(flags)?.iter().filter_map(|domain| domain.name().ok()).collect())
    };
    let saved = names(sys::VIR_CONNECT_LIST_DOMAINS_MANAGEDSAVE)?;
    let snapshots = names(sys::VIR_CONNECT_LIST_DOMAINS_HAS_SNAPSHOT)?;
    let read = |domain: Domain| {
        let name = domain.name().unwrap_or_default();
        Guest::read_with(libvirt, &domain, saved.contains(&name), snapshots.contains(&name))
    };
    let guests: Result<Vec<_>> =
        parallel::map(list(0)?, parallel::DOMAINS, read).into_iter().collect();
    Ok(guests?.into_iter().flatten().collect())
}

/// The path of one source.
pub fn path(connect: Option<&Connect>, source: Node<'_>) -> Option<String> {
    let plain = source.attr("dev").or_else(|| source.attr("file"));
    plain.map(Cow::into_owned).or_else(|| volume_path(connect?, source))
}

/// The paths a disk is read from: all that its element names, and every file below those.
fn paths(images: &mut Images, connect: Option<&Connect>, disk: Node<'_>) -> BTreeSet<PathBuf> {
    let sources = disk.descendants().filter(|node| node.name() == "source");
    let mut paths = BTreeSet::new();
    for name in sources.filter_map(|source| path(connect, source)) {
        let local = LocalFiles::parse(name.as_bytes());
        // A name with a colon in it, too, is one that libvirt takes for a path.
        let named = local.files.iter().flat_map(|file| file.paths_from(Path::new("/")));
        paths.extend(named.chain([PathBuf::from(name)]));
    }
    let below: Vec<PathBuf> = paths.iter().flat_map(|path| images.below(path).paths).collect();
    paths.extend(below);
    paths
}

/// Where a volume of a storage pool is; none when libvirt does not know it now.
fn volume_path(connect: &Connect, source: Node<'_>) -> Option<String> {
    let (pool, volume) = (source.attr("pool")?, source.attr("volume")?);
    let pool = connect.lookup_storage_pool_by_name(&pool).ok()?;
    match pool.lookup_storage_vol_by_name(&volume) {
        Err(error) if is_gone(&error) => None,
        volume => volume.ok()?.path().ok(),
    }
}

/// How a domain has a device.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tenant {
    /// The domain.
    pub domain: String,
    /// In words: `as vdb, running`.
    pub how: String,
    /// Whether it is a disk of the domain, and not a controller given away whole.
    pub is_disk: bool,
}

/// What of the host's disks all domains have, found once for any number of disks.
#[derive(Debug, Default)]
pub struct Tenancy {
    by_block: BTreeMap<String, BTreeSet<Tenant>>,
    by_controller: BTreeMap<Bdf, BTreeSet<Tenant>>,
    by_scsi: BTreeMap<String, BTreeSet<Tenant>>,
    /// By a key of the file, for what a loop device may be backed by.
    by_file: BTreeMap<FileKey, BTreeSet<Tenant>>,
    /// By the path in the definition, for what leads nowhere now.
    by_name: BTreeMap<String, BTreeSet<Tenant>>,
}

impl Tenancy {
    /// Finds the host's disks in the definitions of domains, and below the images that those name.
    ///
    /// Errors: `conflict` for a domain with a device of the host whose address cannot be understood.
    pub fn new(
        host: &Host,
        blocks: &Blocks,
        guests: &[Guest],
        connect: Option<&Connect>,
        mut images: Images,
    ) -> Result<Self> {
        let mut tenancy = Self::default();
        for guest in guests {
            for (disk, live) in guest.disks() {
                let target = disk.attr_at("target", "dev").unwrap_or_default();
                let state = if live { "running" } else { "defined" };
                let tenant = Tenant {
                    domain: guest.name.clone(),
                    how: format!("as {target}, {state}"),
                    is_disk: true,
                };
                for bdf in controllers(disk)
                    .map_err(|error| host_address::in_domain(&guest.name, error))?
                {
                    tenancy.by_controller.entry(bdf).or_default().insert(tenant.clone());
                }
                for path in paths(&mut images, connect, disk) {
                    tenancy.add_path(host, blocks, &path, &tenant);
                }
            }
            let tenant = Tenant {
                domain: guest.name.clone(),
                how: "by an argument for QEMU".to_owned(),
                is_disk: false,
            };
            let mut paths = BTreeSet::new();
            guest.arguments().for_each(|argument| add_paths(&argument, &mut paths));
            for path in paths {
                for below in images.below(&path).paths.into_iter().chain([path]) {
                    tenancy.add_path(host, blocks, &below, &tenant);
                }
            }
            for hostdev in guest.hostdevs() {
                tenancy
                    .add_hostdev(guest, hostdev)
                    .map_err(|error| host_address::in_domain(&guest.name, error))?;
            }
        }
        Ok(tenancy)
    }

    fn add_hostdev(&mut self, guest: &Guest, hostdev: Node<'_>) -> Result<()> {
        let tenant =
            |how: &str| Tenant { domain: guest.name.clone(), how: how.to_owned(), is_disk: false };
        match hostdev.attr("type").as_deref() {
            Some("pci") => {
                let bdf = host_address::source_pci(hostdev)?;
                let tenant = tenant("with all of its controller");
                self.by_controller.entry(bdf).or_default().insert(tenant);
            }
            Some("scsi") => {
                if let Some(address) = host_address::source_scsi(hostdev)? {
                    let tenant = tenant("as a SCSI device");
                    self.by_scsi.entry(address).or_default().insert(tenant);
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn add_path(&mut self, host: &Host, blocks: &Blocks, path: &Path, tenant: &Tenant) {
        let path = path.display().to_string();
        if let Some(block) = blocks.of_path(host, &path) {
            self.by_block.entry(block.name.clone()).or_default().insert(tenant.clone());
            return;
        }
        for key in keys(&host.path(&path)) {
            self.by_file.entry(key).or_default().insert(tenant.clone());
        }
        self.by_name.entry(path).or_default().insert(tenant.clone());
    }

    /// Who has this very device, the file that it is backed by, or the controller it is behind.
    pub fn of(&self, host: &Host, block: &Block, names: &[String]) -> BTreeSet<Tenant> {
        let mut tenants = BTreeSet::new();
        tenants.extend(self.by_block.get(&block.name).into_iter().flatten());
        if let Some(backing) = &block.backing {
            let files = keys(&host.path(backing)).filter_map(|key| self.by_file.get(&key));
            tenants.extend(files.flatten());
        }
        if !self.by_controller.is_empty() {
            for bdf in common::system::block::controllers_of(host, &block.place) {
                tenants.extend(self.by_controller.get(&bdf).into_iter().flatten());
            }
        }
        if !self.by_scsi.is_empty() {
            let address = crate::block::disk::scsi_address(host, block);
            tenants.extend(address.and_then(|a| self.by_scsi.get(&a)).into_iter().flatten());
        }
        for name in names {
            tenants.extend(self.by_name.get(name).into_iter().flatten());
        }
        tenants.into_iter().cloned().collect()
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

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

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

    fn tenants(devices: &str) -> Vec<String> {
        let (_root, host) = machine();
        let blocks = Blocks::read(&host).unwrap();
        let xml = format!("<domain><devices>{devices}</devices></domain>");
        let config = Some(Document::parse(xml).unwrap());
        let guest = Guest { name: "g".to_owned(), live: None, config, other: Vec::new() };
        let tenancy = Tenancy::new(&host, &blocks, &[guest], None, Images::new(&host)).unwrap();
        let names = ["/dev/disk/by-id/gone".to_owned()];
        let stack = blocks.stack("sda");
        assert_eq!(stack.len(), 3, "{stack:?}");
        let all = stack.iter().flat_map(|block| tenancy.of(&host, block, &names));
        all.map(|tenant| tenant.how).collect()
    }

    #[test]
    fn a_disk_is_had_under_any_name_and_in_any_way() {
        let disk = |source: &str| {
            tenants(&format!("<disk type='block'>{source}<target dev='vdb'/></disk>"))
        };
        let as_vdb = ["as vdb, defined"];
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
        let blocks = Blocks::read(&host).unwrap();
        let tenancy = Tenancy::new(&host, &blocks, &[guest], None, Images::new(&host)).unwrap();
        assert_eq!(tenancy.of(&host, blocks.named("sda").unwrap(), &[]).len(), 1);
        let nvme = "<source type='pci' managed='yes' namespace='1'>\
            <address domain='0x0000' bus='0x00' slot='0x17' function='0x0'/></source>";
        assert_eq!(disk(nvme).first().map(String::as_str), Some("as vdb, defined"));
    }

    #[test]
    fn a_device_with_an_address_that_cannot_be_understood_is_a_conflict() {
        let (_root, host) = machine();
        let blocks = Blocks::read(&host).unwrap();
        let read = |device: &str| {
            let xml = format!("<domain><devices>{device}</devices></domain>");
            let config = Some(Document::parse(xml).unwrap());
            let guest = Guest { name: "g".to_owned(), live: None, config, other: Vec::new() };
            Tenancy::new(&host, &blocks, &[guest], None, Images::new(&host)).map(drop)
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
    fn a_disk_in_an_argument_for_qemu_is_the_domains() {
        let (_root, host) = machine();
        let blocks = Blocks::read(&host).unwrap();
        let xml = "<domain xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>\
            <qemu:commandline><qemu:arg value='-drive'/>\
            <qemu:arg value='if=none,file=/dev/sda1,format=raw'/></qemu:commandline></domain>";
        let config = Some(Document::parse(xml.to_owned()).unwrap());
        let guest = Guest { name: "g".to_owned(), live: None, config, other: Vec::new() };
        let tenancy = Tenancy::new(&host, &blocks, &[guest], None, Images::new(&host)).unwrap();
        let tenants = tenancy.of(&host, blocks.named("sda1").unwrap(), &[]);
        assert_eq!(tenants.first().unwrap().how, "by an argument for QEMU");
    }

    #[test]
    fn a_controller_given_away_takes_its_disks_along() {
        let pci = |slot: &str| {
            tenants(&format!(
                "<hostdev mode='subsystem' type='pci'><source>\
                 <address domain='0x0000' bus='0x00' slot='{slot}' function='0x0'/></source></hostdev>"
            ))
        };
        assert_eq!(pci("0x17")[0], "with all of its controller");
        assert_eq!(pci("0x18"), [""; 0]);
        let scsi = |unit: u32| {
            tenants(&format!(
                "<hostdev mode='subsystem' type='scsi'><source><adapter name='scsi_host3'/>\
                 <address bus='0' target='0' unit='{unit}'/></source></hostdev>"
            ))
        };
        assert_eq!(scsi(1), ["as a SCSI device"]);
        assert_eq!(scsi(0), [""; 0]);
    }
}
