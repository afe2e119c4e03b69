//! The domains of libvirt with their definitions.

use std::borrow::Cow;
use std::collections::BTreeSet;

use common::libvirt::{Context, Libvirt, is_gone};
use common::xml::{Document, Node};
use common::{Result, parallel};
use virt::connect::Connect;
use virt::domain::Domain;
use virt::sys;

/// A domain with its definitions.
#[derive(Debug)]
pub struct Guest {
    /// The name of the domain.
    pub name: String,
    /// The running definition, while the domain runs.
    pub live: Option<Document>,
    /// The persistent definition; none for a transient domain.
    pub config: Option<Document>,
    /// The definitions of its saved state and of its snapshots.
    pub(crate) other: Vec<Document>,
}

/// The definitions that a domain can have besides the running and the persistent one.
#[derive(Debug, Clone, Copy)]
struct Extras {
    saved_state: bool,
    snapshots: bool,
}

impl Guest {
    /// Reads a domain; none when the domain no longer exists.
    pub fn read(libvirt: &Libvirt, domain: &Domain) -> Result<Option<Self>> {
        Self::read_with(libvirt, domain, Extras { saved_state: true, snapshots: true })
    }

    /// Reads a domain with the given other definitions; none when the domain no longer exists.
    fn read_with(libvirt: &Libvirt, domain: &Domain, extras: Extras) -> Result<Option<Self>> {
        match Self::try_read(libvirt, domain, extras) {
            Err(error) if error.kind() == common::ErrorKind::NotFound => Ok(None),
            read => read.map(Some),
        }
    }

    fn try_read(libvirt: &Libvirt, domain: &Domain, extras: Extras) -> Result<Self> {
        let name = domain.name().context("read the name of a domain")?;
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
        if extras.saved_state && !is_active {
            other.extend(libvirt.managed_save_xml(domain)?.map(Document::parse).transpose()?);
        }
        let snapshots =
            if extras.snapshots { domain.list_all_snapshots(0) } else { Ok(Vec::new()) };
        for snapshot in snapshots.context(doing)? {
            match snapshot.xml_desc(0) {
                Err(error) if is_gone(&error) => {}
                xml => other.push(Document::parse(xml.context(doing)?)?),
            }
        }
        Ok(Self { name, live, config, other })
    }

    /// The UUID of the domain, from its definitions.
    pub fn uuid(&self) -> Option<String> {
        self.live.iter().chain(&self.config).find_map(|document| document.root().text_at("uuid"))
    }

    /// A copy of the domain with only its running definition.
    pub fn running(&self) -> Self {
        Self { name: self.name.clone(), live: self.live.clone(), config: None, other: Vec::new() }
    }

    /// The `<disk>` elements, each with whether it is in the running definition.
    pub fn disks(&self) -> impl Iterator<Item = (Node<'_>, bool)> {
        let live = self.live.iter().flat_map(|live| devices(live, "disk"));
        let rest = self.config.iter().chain(&self.other).flat_map(|rest| devices(rest, "disk"));
        live.map(|disk| (disk, true)).chain(rest.map(|disk| (disk, false)))
    }

    /// The arguments for QEMU in the definitions.
    pub(crate) fn arguments(&self) -> impl Iterator<Item = Cow<'_, str>> {
        let documents = self.live.iter().chain(&self.config).chain(&self.other);
        let nodes = documents.flat_map(|document| document.root().descendants());
        let is_argument = |node: &Node<'_>| {
            let parent = node.parent().map(Node::local_name);
            node.local_name() == "arg" && parent == Some("commandline")
        };
        nodes.filter(is_argument).filter_map(|node| node.attr("value"))
    }

    /// The host devices of all definitions.
    pub(crate) fn hostdevs(&self) -> impl Iterator<Item = Node<'_>> {
        let documents = self.live.iter().chain(&self.config).chain(&self.other);
        documents.flat_map(|document| devices(document, "hostdev"))
    }
}

/// The devices of this kind in the definition of a domain, or in the two definitions of a snapshot.
fn devices<'d>(document: &'d Document, kind: &str) -> Vec<Node<'d>> {
    let root = document.root();
    let paths = ["devices/", "domain/devices/", "inactiveDomain/devices/"];
    let paths = paths.map(|path| format!("{path}{kind}"));
    paths.iter().flat_map(|path| root.find_all(path).collect::<Vec<_>>()).collect()
}

/// Reads every domain.
pub fn all(libvirt: &Libvirt) -> Result<Vec<Guest>> {
    let list = |flags| libvirt.connect().list_all_domains(flags).context("list domains");
    let names = |flags| -> Result<BTreeSet<String>> {
        Ok(list(flags)?.iter().filter_map(|domain| domain.name().ok()).collect())
    };
    let saved = names(sys::VIR_CONNECT_LIST_DOMAINS_MANAGEDSAVE)?;
    let snapshots = names(sys::VIR_CONNECT_LIST_DOMAINS_HAS_SNAPSHOT)?;
    let read = |domain: Domain| {
        let name = domain.name().unwrap_or_default();
        let extras =
            Extras { saved_state: saved.contains(&name), snapshots: snapshots.contains(&name) };
        Guest::read_with(libvirt, &domain, extras)
    };
    let guests: Result<Vec<_>> =
        parallel::map(list(0)?, parallel::DOMAINS, read).into_iter().collect();
    Ok(guests?.into_iter().flatten().collect())
}

/// The path that a `<source>` names; none when it has no path, or names a volume that libvirt does not know.
pub fn source_path(connect: Option<&Connect>, source: Node<'_>) -> Option<String> {
    let plain = source.attr("dev").or_else(|| source.attr("file"));
    plain.map(Cow::into_owned).or_else(|| volume_path(connect?, source))
}

/// The path of a volume of a storage pool; none when libvirt does not know the volume.
fn volume_path(connect: &Connect, source: Node<'_>) -> Option<String> {
    let (pool, volume) = (source.attr("pool")?, source.attr("volume")?);
    let pool = connect.lookup_storage_pool_by_name(&pool).ok()?;
    match pool.lookup_storage_vol_by_name(&volume) {
        Err(error) if is_gone(&error) => None,
        volume => volume.ok()?.path().ok(),
    }
}
