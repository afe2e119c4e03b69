//! Who needs a file: domains, their snapshots, and the images above it.
//!
//! libvirt has no such notion and would delete a base image under its overlays. Here every file that
//! a domain's XML names is found by parsing, brought to its canonical path and inode, and followed
//! down its chain of backing files. The cost grows as volumes plus domains.

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use common::libvirt::{Context, Libvirt, is_gone};
use common::xml::{Document, Node};
use common::{Error, ErrorKind, Result, parallel};
use virt::domain::Domain;
use virt::sys;

pub use crate::chains::Chains;
use crate::files::{FileKey, canonical, keys};
use crate::pool::Pool;

/// The files that domains need, each with the domains' names.
#[derive(Debug, Default)]
pub struct Usage {
    users: HashMap<FileKey, BTreeSet<String>>,
}

impl Usage {
    /// Asks libvirt for every domain: as it runs, as it would start next, as it was saved, with its
    /// snapshots; and follows every image down its chain.
    ///
    /// Errors: what libvirt says; `io` when a chain cannot be followed and `chains` is strict.
    pub fn collect(libvirt: &Libvirt, chains: &mut Chains) -> Result<Self> {
        let mut collector =
            Collector { users: HashMap::new(), pools: PoolPaths::new(libvirt), chains };
        for read in parallel::map(list(libvirt, 0)?, parallel::DOMAINS, read_domain) {
            gone_is_fine(read.and_then(|(name, documents)| collector.add_all(&name, &documents)))?;
        }
        for domain in list(libvirt, sys::VIR_CONNECT_LIST_DOMAINS_HAS_SNAPSHOT)? {
            gone_is_fine(collector.add_snapshots(&domain))?;
        }
        for domain in list(libvirt, sys::VIR_CONNECT_LIST_DOMAINS_MANAGEDSAVE)? {
            gone_is_fine(collector.add_saved_state(libvirt, &domain))?;
        }
        Ok(Self { users: collector.users })
    }

    /// The domains that need this file, sorted.
    pub fn of(&self, path: &Path) -> Vec<String> {
        let users: BTreeSet<&String> =
            keys(path).filter_map(|key| self.users.get(&key)).flatten().collect();
        users.into_iter().cloned().collect()
    }
}

fn list(libvirt: &Libvirt, flags: u32) -> Result<Vec<Domain>> {
    libvirt.connect().list_all_domains(flags).context("list domains")
}

/// A domain that was deleted meanwhile needs nothing.
fn gone_is_fine(done: Result<()>) -> Result<()> {
    done.or_else(|error: Error| match error.kind() {
        ErrorKind::NotFound => Ok(()),
        _ => Err(error),
    })
}

/// A domain's name and definitions: as it runs, and as it would start next where that may differ.
fn read_domain(domain: Domain) -> Result<(String, Vec<Document>)> {
    let name = domain.name().context("ask a domain for its name")?;
    let doing = format_args!("read domain '{name}'");
    let mut documents = vec![Document::parse(domain.xml_desc(0).context(doing)?)?];
    if domain.id().is_some() && domain.is_persistent().context(doing)? {
        let next = domain.xml_desc(sys::VIR_DOMAIN_XML_INACTIVE).context(doing)?;
        documents.push(Document::parse(next)?);
    }
    Ok((name, documents))
}

struct Collector<'a> {
    users: HashMap<FileKey, BTreeSet<String>>,
    pools: PoolPaths<'a>,
    chains: &'a mut Chains,
}

impl Collector<'_> {
    fn add_all(&mut self, domain: &str, documents: &[Document]) -> Result<()> {
        documents.iter().try_for_each(|document| self.add_document(domain, document))
    }

    fn add_snapshots(&mut self, domain: &Domain) -> Result<()> {
        let name = domain.name().context("ask a domain for its name")?;
        let doing = format_args!("read the snapshots of domain '{name}'");
        for snapshot in domain.list_all_snapshots(0).context(doing)? {
            match snapshot.xml_desc(0) {
                Err(error) if is_gone(&error) => {}
                xml => self.add(&name, xml.context(doing)?)?,
            }
        }
        Ok(())
    }

    fn add_saved_state(&mut self, libvirt: &Libvirt, domain: &Domain) -> Result<()> {
        let name = domain.name().context("ask a domain for its name")?;
        match libvirt.managed_save_xml(domain)? {
            Some(xml) => self.add(&name, xml),
            None => Ok(()),
        }
    }

    fn add(&mut self, domain: &str, xml: String) -> Result<()> {
        self.add_document(domain, &Document::parse(xml)?)
    }

    fn add_document(&mut self, domain: &str, document: &Document) -> Result<()> {
        for path in files(document, &mut self.pools)? {
            let resolved = canonical(&path);
            if resolved != path {
                // A relative backing file is another one when the image is reached by a link.
                if let Some(below) = self.chains.backing(&path)? {
                    self.add_chain(domain, below)?;
                }
            }
            self.add_chain(domain, resolved)?;
        }
        Ok(())
    }

    fn add_chain(&mut self, domain: &str, top: PathBuf) -> Result<()> {
        let mut next = Some(top);
        while let Some(path) = next {
            next = self.chains.backing(&path)?;
            let mut new = false;
            for key in keys(&path) {
                new |= self.users.entry(key).or_default().insert(domain.to_owned());
            }
            if !new {
                break; // walked for this domain already, to its end
            }
        }
        Ok(())
    }
}

/// Every file that a piece of libvirt XML names: any absolute path in an attribute or text, also
/// inside an argument for QEMU (`file=/a,if=virtio`), and volumes named by pool. Too much is harmless
/// here; a file too few would be deleted.
fn files(document: &Document, pools: &mut PoolPaths<'_>) -> Result<BTreeSet<PathBuf>> {
    let mut files = BTreeSet::new();
    for node in document.root().descendants() {
        for value in node.attrs().map(|(_, value)| value.into_owned()).chain([node.text()]) {
            files.extend(paths(&value));
        }
        files.extend(volume_source(&node, pools)?);
    }
    Ok(files)
}

/// The absolute paths in a value: all of it, and whatever follows a separator.
fn paths(value: &str) -> impl Iterator<Item = PathBuf> {
    let separators = |c: char| c.is_whitespace() || matches!(c, '=' | ',' | ':' | '"' | '\'' | ';');
    let parts = value.split(separators).filter(|part| part.len() < value.len());
    let absolute = |part: &&str| part.starts_with('/') && part.len() > 1;
    parts.chain([value]).filter(absolute).map(PathBuf::from)
}

/// The path of `<source pool='P' volume='V'/>`.
fn volume_source(node: &Node<'_>, pools: &mut PoolPaths<'_>) -> Result<Option<PathBuf>> {
    match (node.attr("pool"), node.attr("volume")) {
        (Some(pool), Some(volume)) => Ok(pools.path(&pool)?.map(|path| path.join(volume.as_ref()))),
        _ => Ok(None),
    }
}

/// Where pools are, asked once each.
struct PoolPaths<'a> {
    libvirt: &'a Libvirt,
    known: HashMap<String, Option<PathBuf>>,
}

impl<'a> PoolPaths<'a> {
    fn new(libvirt: &'a Libvirt) -> Self {
        Self { libvirt, known: HashMap::new() }
    }

    fn path(&mut self, name: &str) -> Result<Option<PathBuf>> {
        if !self.known.contains_key(name) {
            let path = Pool::by_name(self.libvirt, name)?.and_then(|pool| pool.path);
            self.known.insert(name.to_owned(), path);
        }
        Ok(self.known.get(name).cloned().flatten())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_found_inside_values() {
        for (value, wanted) in [
            ("/a/b", vec!["/a/b"]),
            ("/a b/c", vec!["/a", "/a b/c"]),
            ("file=/a/b,if=virtio", vec!["/a/b"]),
            ("file:/a/b", vec!["/a/b"]),
            (r#"{"filename":"/a/b"}"#, vec!["/a/b"]),
            ("application/x", vec![]),
            ("/", vec![]),
            ("", vec![]),
        ] {
            let found: BTreeSet<PathBuf> = paths(value).collect();
            assert_eq!(found, wanted.into_iter().map(PathBuf::from).collect(), "{value}");
        }
    }
}
