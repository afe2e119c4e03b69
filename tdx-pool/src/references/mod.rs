//! Collects all references to files, by domains and by the images of all pools, once for many queries.

pub(crate) mod chains;
pub mod dependents;
pub(crate) mod disk_writers;
pub(crate) mod domain_documents;
pub(crate) mod domain_files;
pub mod inflight;
pub(crate) mod open_files;
pub(crate) mod orphans;
pub mod usage;

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use common::Result;
use common::image::{FileKey, Unknown, keys};
use common::libvirt::Libvirt;

use crate::references::dependents::{UnknownImage, UnknownImages, pool_files};
use crate::references::usage::{Chains, Usage};

/// The references to files at one moment.
#[derive(Debug)]
pub struct References {
    usage: Usage,
    chains: Chains,
    images: Vec<Image>,
    /// The images that were already counted.
    known: HashSet<FileKey>,
    /// For each file, the numbers of the images that need it.
    above: HashMap<FileKey, Vec<usize>>,
    /// Directories of which an image needs every file, with the number of the image.
    directories: Vec<(PathBuf, usize)>,
    /// The images that may need unknown files.
    unknown: UnknownImages,
    /// The pool that contains a file.
    pools: HashMap<FileKey, String>,
}

/// An image, and whether it was deleted.
#[derive(Debug)]
struct Image {
    keys: Vec<FileKey>,
    label: String,
    is_deleted: bool,
}

impl References {
    /// Reads every domain's XML and the headers of all images in all pools. A signal does not end the collection,
    /// because the files of a domain that is already undefined would be left behind.
    ///
    /// Errors: those of libvirt.
    pub fn collect(libvirt: &Libvirt) -> Result<Self> {
        let mut chains = Chains::visible(libvirt).uninterruptible();
        let usage = Usage::collect(libvirt, &mut chains)?;
        let unknown = UnknownImages::needed_by_domains(&usage);
        let (images, known, above, directories, pools) = Default::default();
        let mut references =
            Self { usage, chains, images, known, above, directories, unknown, pools };
        let files = pool_files(libvirt)?;
        for file in &files {
            if let Some(backing) = &file.backing {
                references.chains.learn(&file.path, backing);
            }
        }
        for file in files {
            for unknown in references.chains.below(&file.path)?.unknown {
                references.unknown.add(&references.usage, &file.pool, unknown);
            }
            for key in references.chains.keys(&file.path) {
                references.pools.insert(key, file.pool.clone());
            }
            let label = format!("volume '{}' of pool '{}'", file.name, file.pool);
            references.add_image(&file.path, label)?;
        }
        Ok(references)
    }

    /// Adds an image that may be outside all pools.
    pub fn add_image(&mut self, path: &Path, label: String) -> Result<()> {
        let below = self.chains.below(path)?;
        let keys_of_image: Vec<FileKey> = keys(path).collect();
        let is_known = keys_of_image.iter().any(|key| self.known.contains(key));
        if is_known || (below.keys.is_empty() && below.directories.is_empty()) {
            return Ok(());
        }
        self.known.extend(keys_of_image.iter().cloned());
        let number = self.images.len();
        for key in below.keys {
            self.above.entry(key).or_default().push(number);
        }
        self.directories.extend(below.directories.into_iter().map(|path| (path, number)));
        self.images.push(Image { keys: keys_of_image, label, is_deleted: false });
        Ok(())
    }

    /// The files that domains need.
    pub fn usage(&self) -> &Usage {
        &self.usage
    }

    /// The domains that need a file, sorted by name.
    pub fn domains(&self, path: &Path) -> Vec<String> {
        self.usage.users_of(path)
    }

    /// Descriptions of the images that need a file, for messages.
    pub fn images(&self, path: &Path) -> Vec<String> {
        let keys: Vec<FileKey> = keys(path).collect();
        let is_inside = |directory: &PathBuf| {
            keys.iter().any(|key| matches!(key, FileKey::Path(path) if path.starts_with(directory)))
        };
        let inside = self.directories.iter().filter(|(directory, _)| is_inside(directory));
        let named = keys.iter().filter_map(|key| self.above.get(key)).flatten();
        let numbers = named.chain(inside.map(|(_, number)| number));
        let images = numbers.map(|number| &self.images[*number]);
        let mut labels: Vec<String> =
            images.filter(|image| !image.is_deleted).map(|image| image.label.clone()).collect();
        labels.sort();
        labels.dedup();
        labels
    }

    /// Descriptions of the other images that may need a file, because the files that they need are unknown. Images that
    /// only the domains in `going` use are left out.
    pub fn unknown_images(&self, path: &Path, going: &HashSet<String>) -> Vec<String> {
        let file: Vec<FileKey> = keys(path).collect();
        let Some(pool) = file.iter().find_map(|key| self.pools.get(key)) else { return Vec::new() };
        let is_other = |image: &&UnknownImage| {
            let users = self.usage.users_of_keys(&image.keys);
            let is_going = !users.is_empty() && users.iter().all(|user| going.contains(user));
            !is_going && !image.keys.iter().any(|key| file.contains(key))
        };
        let others = self.unknown.concerning(pool).filter(is_other);
        others
            .map(|image| {
                let Unknown { path, reason } = &image.unknown;
                format!("possibly image '{}' ({reason})", path.display())
            })
            .collect()
    }

    /// Counts an image as deleted, so that it needs no other file.
    pub fn forget(&mut self, path: &Path) {
        let deleted: Vec<FileKey> = keys(path).collect();
        for image in &mut self.images {
            image.is_deleted |= image.keys.iter().any(|key| deleted.contains(key));
        }
        self.unknown.forget(&deleted);
    }
}
