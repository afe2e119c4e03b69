//! Which domains write to a volume: it is their disk, and no base image.

use std::collections::BTreeSet;
use std::path::Path;

use common::libvirt::{Context, Libvirt, is_gone};
use common::xml::{Document, Node};
use common::{Error, ErrorKind, Result, parallel};
use virt::domain::Domain;
use virt::sys;

use crate::image::quote;
use crate::pool::Pool;
use common::image::{FileKey, keys};

/// Fails for a volume that a domain has as a disk it may write to: as it runs, as it would start, as
/// it was saved, or in one of its snapshots.
///
/// Errors: `conflict`, naming the domains; what libvirt says.
pub(crate) fn check(libvirt: &Libvirt, pool: &str, volume: &str, path: &Path) -> Result<()> {
    let writers = find(libvirt, &Wanted::new(libvirt, pool, volume, path))?;
    if writers.is_empty() {
        return Ok(());
    }
    let names: Vec<String> = writers.iter().map(|name| format!("'{name}'")).collect();
    let domains = if names.len() == 1 { "domain" } else { "domains" };
    let names = names.join(", ");
    Err(Error::conflict(format!("volume '{volume}' is a disk of {domains} {names}: no base image"))
        .hint(format!(
            "shut the guest off and import a copy: tdx-pool import {} --name NAME",
            quote(path)
        )))
}

/// A volume, by all that a domain's XML may call it.
struct Wanted<'a> {
    libvirt: &'a Libvirt,
    pool: &'a str,
    volume: &'a str,
    path: &'a Path,
    keys: Vec<FileKey>,
}

impl<'a> Wanted<'a> {
    fn new(libvirt: &'a Libvirt, pool: &'a str, volume: &'a str, path: &'a Path) -> Self {
        // The paths of another host say nothing here.
        let keys = if libvirt.is_local() { keys(path).collect() } else { Vec::new() };
        Self { libvirt, pool, volume, path, keys }
    }

    /// Whether a domain with this XML, which may be that of a snapshot, writes to the volume.
    fn is_written_in(&self, document: &Document) -> bool {
        let disks = document.root().descendants().filter(|node| node.name() == "disk");
        disks.filter(is_writable).flat_map(sources).any(|source| {
            let files = ["file", "dev"].iter().filter_map(|name| source.attr(name));
            let mut files = files.into_iter();
            self.is_volume(&source) || files.any(|file| self.is_path(Path::new(file.as_ref())))
        })
    }

    /// Whether a source names the volume by a pool: by its own name, or by that of a link to it.
    fn is_volume(&self, source: &Node<'_>) -> bool {
        let (Some(pool), Some(volume)) = (source.attr("pool"), source.attr("volume")) else {
            return false;
        };
        if pool == self.pool && volume == self.volume {
            return true;
        }
        // A pool that libvirt does not know has no volume.
        let pool = Pool::by_name(self.libvirt, &pool).ok().flatten();
        let folder = pool.and_then(|pool| pool.path);
        folder.is_some_and(|folder| self.is_path(&folder.join(volume.as_ref())))
    }

    fn is_path(&self, path: &Path) -> bool {
        path == self.path
            || (!self.keys.is_empty() && keys(path).any(|key| self.keys.contains(&key)))
    }
}

/// Source: <https://libvirt.org/formatdomain.html#hard-drives-floppy-disks-cdroms>: a CD is read-only
/// whatever its element says.
fn is_writable(disk: &Node<'_>) -> bool {
    disk.child("readonly").is_none() && disk.attr("device").as_deref() != Some("cdrom")
}

/// The source of a disk, and what it is being copied to.
fn sources(disk: Node<'_>) -> impl Iterator<Item = Node<'_>> {
    [disk.child("source"), disk.find("mirror/source")].into_iter().flatten()
}

fn find(libvirt: &Libvirt, wanted: &Wanted<'_>) -> Result<BTreeSet<String>> {
    let mut writers = BTreeSet::new();
    let mut take = |writer: Result<Option<String>>| match writer {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()), // deleted meanwhile
        writer => writer.map(|writer| writers.extend(writer)),
    };
    let now = |domain| in_definitions(&domain, wanted);
    parallel::map(list(libvirt, 0)?, parallel::DOMAINS, now).into_iter().try_for_each(&mut take)?;
    for domain in list(libvirt, sys::VIR_CONNECT_LIST_DOMAINS_HAS_SNAPSHOT)? {
        take(in_snapshots(&domain, wanted))?;
    }
    for domain in list(libvirt, sys::VIR_CONNECT_LIST_DOMAINS_MANAGEDSAVE)? {
        take(in_saved_state(libvirt, &domain, wanted))?;
    }
    Ok(writers)
}

fn list(libvirt: &Libvirt, flags: u32) -> Result<Vec<Domain>> {
    libvirt.connect().list_all_domains(flags).context("list domains")
}

/// The domain's name, if it writes to the volume as it runs or would start next.
fn in_definitions(domain: &Domain, wanted: &Wanted<'_>) -> Result<Option<String>> {
    let name = domain.name().context("ask a domain for its name")?;
    let doing = format_args!("read domain '{name}'");
    let mut is_writer = wanted.is_written_in(&Document::parse(domain.xml_desc(0).context(doing)?)?);
    if !is_writer && domain.id().is_some() && domain.is_persistent().context(doing)? {
        let next = domain.xml_desc(sys::VIR_DOMAIN_XML_INACTIVE).context(doing)?;
        is_writer = wanted.is_written_in(&Document::parse(next)?);
    }
    Ok(is_writer.then_some(name))
}

fn in_saved_state(
    libvirt: &Libvirt,
    domain: &Domain,
    wanted: &Wanted<'_>,
) -> Result<Option<String>> {
    let name = domain.name().context("ask a domain for its name")?;
    let Some(text) = libvirt.managed_save_xml(domain)? else { return Ok(None) };
    Ok(wanted.is_written_in(&Document::parse(text)?).then_some(name))
}

fn in_snapshots(domain: &Domain, wanted: &Wanted<'_>) -> Result<Option<String>> {
    let name = domain.name().context("ask a domain for its name")?;
    let doing = format_args!("read the snapshots of domain '{name}'");
    for snapshot in domain.list_all_snapshots(0).context(doing)? {
        let text = match snapshot.xml_desc(0) {
            Err(error) if is_gone(&error) => continue,
            text => text.context(doing)?,
        };
        if wanted.is_written_in(&Document::parse(text)?) {
            return Ok(Some(name));
        }
    }
    Ok(None)
}
