//! What images stand on: chains of backing files.

use std::collections::HashMap;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use common::libvirt::Libvirt;
use common::{ErrorKind, IoContext, Result};

use crate::files::canonical;
use crate::image;

/// What each image stands on: from the files' own headers where they can be read, from what libvirt
/// said where they cannot.
#[derive(Debug)]
pub struct Chains {
    read: HashMap<PathBuf, Option<PathBuf>>,
    learnt: HashMap<PathBuf, PathBuf>,
    local: bool,
    strict: bool,
}

impl Chains {
    /// Chains read from headers. An image that is there but cannot be read is an error: for verbs
    /// that delete what nothing needs.
    pub fn strict() -> Self {
        Self { read: HashMap::new(), learnt: HashMap::new(), local: true, strict: true }
    }

    /// Chains as far as they can be seen from here.
    pub fn visible(libvirt: &Libvirt) -> Self {
        Self { local: libvirt.is_local(), strict: false, ..Self::strict() }
    }

    /// Adds what libvirt said of an image.
    pub fn learn(&mut self, path: &Path, backing: &Path) {
        let path = canonical(path);
        self.read.remove(&path);
        self.learnt.insert(path, canonical(backing));
    }

    /// The canonical path of the image right under `path`, when it is a file. A relative name counts
    /// from the folder of `path` as that is spelt, as QEMU does it.
    pub fn backing(&mut self, path: &Path) -> Result<Option<PathBuf>> {
        if let Some(backing) = self.read.get(path) {
            return Ok(backing.clone());
        }
        let backing = match self.local.then(|| read_backing(path)) {
            None => None,
            Some(Ok(backing)) => backing.map(|below| canonical(&below)),
            Some(Err(error)) if error.kind() == ErrorKind::NotFound || !self.strict => None,
            Some(Err(error)) => return Err(error),
        };
        let backing = backing.or_else(|| self.learnt.get(path).cloned());
        self.read.insert(path.to_owned(), backing.clone());
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
