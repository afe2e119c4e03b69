//! Every reference to a file, collected once for many questions: by domains, and by the images of all pools.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use common::Result;
use common::libvirt::Libvirt;

use crate::files::{FileKey, keys};
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
        let (images, known, above) = Default::default();
        let mut references = Self { usage, chains, images, known, above };
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
        let chain = self.chains.chain(path)?;
        let keys_of_image: Vec<FileKey> = keys(path).collect();
        let is_known = keys_of_image.iter().any(|key| self.known.contains(key));
        if chain.is_empty() || is_known {
            return Ok(());
        }
        self.known.extend(keys_of_image.iter().cloned());
        for below in chain.iter().flat_map(|below| keys(below)) {
            self.above.entry(below).or_default().push(self.images.len());
        }
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
        let numbers = keys(path).filter_map(|key| self.above.get(&key)).flatten();
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
