//! Who needs a file: domains, their snapshots, and the images above it.
//!
//! libvirt has no such notion and would delete a base image under its overlays. Here every file that
//! a domain's XML names is found by parsing, brought to its canonical path, and followed down its
//! chain of backing files. The cost grows as volumes plus domains.

use std::collections::{BTreeSet, HashMap};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use common::libvirt::{Context, Libvirt, is_gone};
use common::xml::{Document, Node};
use common::{ErrorKind, IoContext, Result};
use virt::domain::Domain;
use virt::sys;

use crate::image;
use crate::pool::{Pool, canonical};

/// The files that domains need, each with the domains' names.
#[derive(Debug, Default)]
pub struct Usage {
    users: HashMap<PathBuf, BTreeSet<String>>,
}

impl Usage {
    /// Asks libvirt for every domain, running or not, as it runs and as it would start next, with its
    /// snapshots, and follows every image down its chain.
    ///
    /// Errors: what libvirt says; `io` when a chain cannot be followed and `chains` is strict.
    pub fn collect(libvirt: &Libvirt, chains: &mut Chains) -> Result<Self> {
        let mut usage = Self::default();
        let mut pools = PoolPaths { libvirt, known: HashMap::new() };
        for domain in libvirt.connect().list_all_domains(0).context("list domains")? {
            match usage.add_domain(&domain, &mut pools, chains) {
                Err(error) if error.kind() == ErrorKind::NotFound => {} // deleted meanwhile
                done => done?,
            }
        }
        let with_snapshots = sys::VIR_CONNECT_LIST_DOMAINS_HAS_SNAPSHOT;
        for domain in libvirt.connect().list_all_domains(with_snapshots).context("list domains")? {
            usage.add_snapshots(&domain, &mut pools, chains)?;
        }
        Ok(usage)
    }

    /// The domains that need this file, sorted.
    pub fn of(&self, path: &Path) -> Vec<String> {
        let users = self.users.get(&canonical(path));
        users.into_iter().flatten().cloned().collect()
    }

    fn add_domain(
        &mut self,
        domain: &Domain,
        pools: &mut PoolPaths<'_>,
        chains: &mut Chains,
    ) -> Result<()> {
        let name = domain.name().context("ask a domain for its name")?;
        let doing = format_args!("read domain '{name}'");
        self.add(&name, domain.xml_desc(0).context(doing)?, pools, chains)?;
        // A running domain may start with other disks next time.
        if domain.id().is_some() && domain.is_persistent().context(doing)? {
            let next = domain.xml_desc(sys::VIR_DOMAIN_XML_INACTIVE).context(doing)?;
            self.add(&name, next, pools, chains)?;
        }
        Ok(())
    }

    fn add_snapshots(
        &mut self,
        domain: &Domain,
        pools: &mut PoolPaths<'_>,
        chains: &mut Chains,
    ) -> Result<()> {
        let name = domain.name().context("ask a domain for its name")?;
        let doing = format_args!("read the snapshots of domain '{name}'");
        for snapshot in domain.list_all_snapshots(0).context(doing)? {
            match snapshot.xml_desc(0) {
                Err(error) if is_gone(&error) => {}
                xml => self.add(&name, xml.context(doing)?, pools, chains)?,
            }
        }
        Ok(())
    }

    fn add(
        &mut self,
        domain: &str,
        xml: String,
        pools: &mut PoolPaths<'_>,
        chains: &mut Chains,
    ) -> Result<()> {
        for path in files(&Document::parse(xml)?, pools)? {
            let mut next = Some(canonical(&path));
            while let Some(path) = next {
                next = chains.backing(&path)?;
                // A chain that was walked for this domain already is known to its end.
                if !self.users.entry(path).or_default().insert(domain.to_owned()) {
                    break;
                }
            }
        }
        Ok(())
    }
}

/// Every file that a piece of libvirt XML names: any attribute or text that is an absolute path, and
/// volumes named by pool. Too much is harmless here; a file too few would be deleted.
fn files(document: &Document, pools: &mut PoolPaths<'_>) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for node in document.root().descendants() {
        let values = node.attrs().map(|(_, value)| value.into_owned()).chain([node.text()]);
        files.extend(values.filter(|value| value.starts_with('/')).map(PathBuf::from));
        files.extend(volume_source(&node, pools)?);
    }
    Ok(files)
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

impl PoolPaths<'_> {
    fn path(&mut self, name: &str) -> Result<Option<PathBuf>> {
        if !self.known.contains_key(name) {
            let path = Pool::by_name(self.libvirt, name)?.and_then(|pool| pool.path);
            self.known.insert(name.to_owned(), path);
        }
        Ok(self.known.get(name).cloned().flatten())
    }
}

/// What each image stands on: from the files' own headers where they can be read, from libvirt's view
/// of the pool where they cannot.
#[derive(Debug)]
pub struct Chains {
    known: HashMap<PathBuf, Option<PathBuf>>,
    local: bool,
    strict: bool,
}

impl Chains {
    /// Chains read from headers. An image that is there but cannot be read is an error: for verbs
    /// that delete what nothing needs.
    pub fn strict() -> Self {
        Self { known: HashMap::new(), local: true, strict: true }
    }

    /// Chains as far as they can be seen from here.
    pub fn visible(libvirt: &Libvirt) -> Self {
        Self { known: HashMap::new(), local: libvirt.is_local(), strict: false }
    }

    /// Adds what libvirt said of an image.
    pub fn learn(&mut self, path: &Path, backing: Option<&Path>) {
        self.known.insert(canonical(path), backing.map(canonical));
    }

    /// The canonical path of the image right under `path`, when it is a file.
    pub fn backing(&mut self, path: &Path) -> Result<Option<PathBuf>> {
        if let Some(backing) = self.known.get(path) {
            return Ok(backing.clone());
        }
        let backing = match self.local.then(|| read_backing(path)) {
            None => None,
            Some(Ok(backing)) => backing.map(|below| canonical(&below)),
            Some(Err(error)) if error.kind() == ErrorKind::NotFound || !self.strict => None,
            Some(Err(error)) => return Err(error),
        };
        self.known.insert(path.to_owned(), backing.clone());
        Ok(backing)
    }

    /// Everything under `path`, nearest first.
    pub fn chain(&mut self, path: &Path) -> Result<Vec<PathBuf>> {
        let mut chain: Vec<PathBuf> = Vec::new();
        let mut next = self.backing(&canonical(path))?;
        while let Some(path) = next {
            if chain.contains(&path) {
                break; // a loop, which QEMU would refuse
            }
            next = self.backing(&path)?;
            chain.push(path);
        }
        Ok(chain)
    }
}

/// The backing file that an image's header names; none for what is no image at all: a domain's XML
/// names sockets and folders too.
fn read_backing(path: &Path) -> Result<Option<PathBuf>> {
    let kind = path.metadata().at("look at", path)?.file_type();
    if !kind.is_file() && !kind.is_block_device() {
        return Ok(None);
    }
    Ok(image::backing_of(path)?.and_then(|backing| backing.path(path)))
}
