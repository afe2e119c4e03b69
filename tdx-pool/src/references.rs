//! Every reference to a file, collected once for many questions: by domains, and by the images of all pools.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use common::Result;
use common::image::{FileKey, keys};
use common::libvirt::Libvirt;

use crate::needs::pool_files;
use crate::usage::{Chains, Usage};

/// Who needs which file, at one moment.
#[derive(Debug)]
pub struct References {
    usage: Usage,
    chains: Chains,
    images: Vec<Image>,
    /// Those that were counted already.
    known: HashSet<FileKey>,
    /// The images that need a file, by their number.
    above: HashMap<FileKey, Vec<usize>>,
    /// Directories of which an image needs every file, with its number.
    directories: Vec<(PathBuf, usize)>,
}

/// An image and whether it still counts.
#[derive(Debug)]
struct Image {
    keys: Vec<FileKey>,
    label: String,
    is_deleted: bool,
}

impl References {
    /// Reads every domain's XML and the headers of all images in all pools.
    ///
    /// Errors: those of libvirt.
    pub fn collect(libvirt: &Libvirt) -> Result<Self> {
        let mut chains = Chains::visible(libvirt);
        let usage = Usage::collect(libvirt, &mut chains)?;
        let (images, known, above, directories) = Default::default();
        let mut references = Self { usage, chains, images, known, above, directories };
        let files = pool_files(libvirt)?;
        for file in &files {
            if let Some(backing) = &file.backing {
                references.chains.learn(&file.path, backing);
            }
        }
        for file in files {
            let label = format!("volume '{}' of pool '{}'", file.name, file.pool);
            references.add_image(&file.path, label)?;
        }
        Ok(references)
    }

    /// Counts an image that may be in no pool.
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

    /// What domains need.
    pub fn usage(&self) -> &Usage {
        &self.usage
    }

    /// The domains that need a file, sorted by name.
    pub fn domains(&self, path: &Path) -> Vec<String> {
        self.usage.of(path)
    }

    /// The images that a file is under, in words.
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

    /// Counts an image as deleted: it needs no other file any more.
    pub fn forget(&mut self, path: &Path) {
        let deleted: Vec<FileKey> = keys(path).collect();
        for image in &mut self.images {
            image.is_deleted |= image.keys.iter().any(|key| deleted.contains(key));
        }
    }
}
