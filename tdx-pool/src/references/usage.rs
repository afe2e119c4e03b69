//! Finds the domains that need a file: directly, in a snapshot, or through an image that needs the file.
//!
//! libvirt does not record this and would delete a base image under its overlays. This module parses every file name
//! in the XML of domains, resolves it to a canonical path and inode, and adds all files that the image needs. The time
//! grows with the number of volumes plus the number of domains.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::{Path, PathBuf};

use common::Result;
use common::image::{FileKey, Unknown, UnknownReason, keys};
use common::libvirt::Libvirt;
use common::xml::Document;

pub use crate::references::chains::Chains;
use crate::references::domain_documents;
use crate::references::domain_files::{PoolPaths, files, stated_images};

/// The files that domains need, each with the names of the domains.
#[derive(Debug, Default)]
pub struct Usage {
    users: HashMap<FileKey, BTreeSet<String>>,
    /// Directories whose files QEMU shows to a guest, each with the name of the domain.
    directories: BTreeSet<(PathBuf, String)>,
    /// The images, of disks or needed by disks, that may need unknown files.
    unknown: BTreeMap<PathBuf, UnknownReason>,
    stated: Stated,
}

/// The properties of images that the XML of domains states.
#[derive(Debug, Default)]
struct Stated {
    raw: HashSet<FileKey>,
    backing: HashSet<FileKey>,
    data_file: HashSet<FileKey>,
}

impl Usage {
    /// Reads the definitions of every domain (running, persistent, saved, and of snapshots), and finds all files that
    /// their images need.
    ///
    /// Errors: those of libvirt; `interrupted`.
    pub fn collect(libvirt: &Libvirt, chains: &mut Chains) -> Result<Self> {
        let (usage, pools) = (Self::default(), PoolPaths::new(libvirt));
        let mut collector = Collector { usage, pools, chains };
        domain_documents::visit_all(libvirt, |domain, document| {
            collector.add_document(domain, document)
        })?;
        Ok(collector.usage)
    }

    /// The domains that need this file, sorted.
    pub fn users_of(&self, path: &Path) -> Vec<String> {
        self.users_of_keys(&keys(path).collect::<Vec<_>>())
    }

    /// The domains that need the file with these keys, sorted.
    pub(crate) fn users_of_keys(&self, keys: &[FileKey]) -> Vec<String> {
        let mut users: BTreeSet<&String> =
            keys.iter().filter_map(|key| self.users.get(key)).flatten().collect();
        for (directory, user) in &self.directories {
            if keys
                .iter()
                .any(|key| matches!(key, FileKey::Path(path) if path.starts_with(directory)))
            {
                users.insert(user);
            }
        }
        users.into_iter().cloned().collect()
    }

    /// The images that domains need and that may need unknown files, which the XML does not state either.
    pub(crate) fn unknown(&self) -> impl Iterator<Item = Unknown> {
        let unknown = self.unknown.iter();
        let unknown =
            unknown.map(|(path, reason)| Unknown { path: path.clone(), reason: reason.clone() });
        unknown.filter(|unknown| !self.is_stated(unknown))
    }

    /// Whether the XML of domains states the files that the header of an image leaves unknown.
    pub(crate) fn is_stated(&self, unknown: &Unknown) -> bool {
        let stated = match unknown.reason {
            UnknownReason::UnnamedDataFile => &self.stated.data_file,
            _ => &self.stated.backing,
        };
        keys(&unknown.path).any(|key| self.stated.raw.contains(&key) || stated.contains(&key))
    }
}

struct Collector<'a> {
    usage: Usage,
    pools: PoolPaths<'a>,
    chains: &'a mut Chains,
}

impl Collector<'_> {
    fn add_document(&mut self, domain: &str, document: &Document) -> Result<()> {
        let images = stated_images(document, &mut self.pools)?;
        for image in &images {
            let keys = self.chains.keys(&image.path);
            let stated = &mut self.usage.stated;
            for (is_stated, set) in [
                (image.is_raw, &mut stated.raw),
                (image.has_backing, &mut stated.backing),
                (image.has_data_file, &mut stated.data_file),
            ] {
                set.extend(keys.iter().filter(|_| is_stated).cloned());
            }
        }
        for path in files(document, &mut self.pools)? {
            let is_image = images.iter().any(|image| image.path == path);
            self.add_file(domain, &path, is_image)?;
        }
        Ok(())
    }

    /// Adds a file with all files that it needs.
    fn add_file(&mut self, domain: &str, path: &Path, is_image: bool) -> Result<()> {
        let below = self.chains.below(path)?;
        for key in self.chains.keys(path).into_iter().chain(below.keys) {
            self.usage.users.entry(key).or_default().insert(domain.to_owned());
        }
        let directories = below.directories.into_iter();
        self.usage.directories.extend(directories.map(|directory| (directory, domain.to_owned())));
        // Other paths are sockets, firmware and logs, which this user may be unable to read.
        for unknown in below.unknown.into_iter().filter(|_| is_image) {
            self.usage.unknown.insert(unknown.path, unknown.reason);
        }
        Ok(())
    }
}
