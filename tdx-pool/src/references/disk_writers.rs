//! Finds the domains that write to a volume, which therefore cannot be a base image.

use std::collections::BTreeSet;
use std::path::Path;

use common::image::{FileKey, keys};
use common::libvirt::Libvirt;
use common::shell::quote_path;
use common::xml::{Document, Node};
use common::{Error, Result};

use crate::pool::Pool;
use crate::references::domain_documents;

/// Fails for a volume that is a writable disk of a domain: in its running or its persistent definition, in its saved
/// state, or in one of its snapshots.
///
/// Errors: `conflict`, which names the domains; those of libvirt.
pub(crate) fn check(libvirt: &Libvirt, pool: &str, volume: &str, path: &Path) -> Result<()> {
    let asked = AskedVolume::new(libvirt, pool, volume, path);
    let mut writers = BTreeSet::new();
    domain_documents::visit_all(libvirt, |domain, document| {
        writers.extend(asked.is_written_in(document).then(|| domain.to_owned()));
        Ok(())
    })?;
    if writers.is_empty() {
        return Ok(());
    }
    let names: Vec<String> = writers.iter().map(|name| format!("'{name}'")).collect();
    let domains = if names.len() == 1 { "domain" } else { "domains" };
    let names = names.join(", ");
    Err(Error::conflict(format!(
        "volume '{volume}' cannot be a base image: it is a writable disk of {domains} {names}"
    ))
    .hint(format!(
        "shut the guest off, then import a copy: tdx-pool import {} --name NAME",
        quote_path(path)
    )))
}

/// A volume, with all names by which the XML of a domain may refer to it.
struct AskedVolume<'a> {
    libvirt: &'a Libvirt,
    pool: &'a str,
    volume: &'a str,
    path: &'a Path,
    keys: Vec<FileKey>,
}

impl<'a> AskedVolume<'a> {
    fn new(libvirt: &'a Libvirt, pool: &'a str, volume: &'a str, path: &'a Path) -> Self {
        // Paths of another host mean other files on this host.
        let keys = if libvirt.is_local() { keys(path).collect() } else { Vec::new() };
        Self { libvirt, pool, volume, path, keys }
    }

    /// Whether this XML of a domain or a snapshot contains the volume as a writable disk.
    fn is_written_in(&self, document: &Document) -> bool {
        let disks = document.root().descendants().filter(|node| node.name() == "disk");
        disks.filter(is_writable).flat_map(sources).any(|source| {
            let files = ["file", "dev"].iter().filter_map(|name| source.attr(name));
            let mut files = files.into_iter();
            self.is_volume(&source) || files.any(|file| self.is_path(Path::new(file.as_ref())))
        })
    }

    /// Whether a source names the volume by pool and name. The name may also be that of a link to the volume.
    fn is_volume(&self, source: &Node<'_>) -> bool {
        let (Some(pool), Some(volume)) = (source.attr("pool"), source.attr("volume")) else {
            return false;
        };
        if pool == self.pool && volume == self.volume {
            return true;
        }
        // An unknown pool has no volumes.
        let pool = Pool::by_name(self.libvirt, &pool).ok().flatten();
        let folder = pool.and_then(|pool| pool.path);
        folder.is_some_and(|folder| self.is_path(&folder.join(volume.as_ref())))
    }

    fn is_path(&self, path: &Path) -> bool {
        path == self.path
            || (!self.keys.is_empty() && keys(path).any(|key| self.keys.contains(&key)))
    }
}

/// Source: <https://libvirt.org/formatdomain.html#hard-drives-floppy-disks-cdroms>: a CD is always read-only.
fn is_writable(disk: &Node<'_>) -> bool {
    disk.child("readonly").is_none() && disk.attr("device").as_deref() != Some("cdrom")
}

/// The source of a disk, and the targets of its running block jobs.
fn sources(disk: Node<'_>) -> impl Iterator<Item = Node<'_>> {
    [disk.child("source"), disk.find("mirror/source")].into_iter().flatten()
}
