//! Finds the domains and images, in any pool, that need a file, so that the file cannot be deleted.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use common::image::{Below, FileKey, Unknown, keys};
use common::libvirt::Libvirt;
use common::shell::quote_path;
use common::{Error, Result};

use crate::pool::Pool;
use crate::references::usage::{Chains, Usage};
use crate::volume::Volume;
use crate::volume::survey::Survey;

/// An image in some pool.
#[derive(Debug)]
pub(crate) struct PoolFile {
    /// The name of the pool.
    pub(crate) pool: String,
    /// The name of the image in the pool.
    pub(crate) name: String,
    /// The path of the image.
    pub(crate) path: PathBuf,
    /// The backing image that libvirt reports, for an image that cannot be read.
    pub(crate) backing: Option<PathBuf>,
}

/// Every file in the directories of all pools, active or inactive, and every volume of pools without a directory.
///
/// libvirt's list of a pool's files is only as new as the last refresh. The directory itself is therefore read if
/// possible.
pub(crate) fn pool_files(libvirt: &Libvirt) -> Result<Vec<PoolFile>> {
    let mut files = Vec::new();
    for pool in Pool::all(libvirt)? {
        let folder = pool.folder().ok().filter(|_| libvirt.is_local());
        if let Some(entries) = folder.and_then(|folder| std::fs::read_dir(folder).ok()) {
            files.extend(entries.flatten().map(|entry| PoolFile {
                pool: pool.name.clone(),
                name: entry.file_name().to_string_lossy().into_owned(),
                path: entry.path(),
                backing: None,
            }));
        } else if pool.is_active() {
            files.extend(Volume::all_while(&pool, || Ok(()))?.into_iter().map(|volume| PoolFile {
                pool: pool.name.clone(),
                name: volume.name,
                path: volume.path,
                backing: volume.backing,
            }));
        }
    }
    Ok(files)
}

/// Descriptions of the domains and the images of pools that need a file, for messages.
///
/// A signal does not end the search, because the signal may be the reason to delete a file that was just created.
///
/// Errors: those of libvirt.
pub fn users(libvirt: &Libvirt, path: &Path) -> Result<Vec<String>> {
    let mut chains = Chains::visible(libvirt).uninterruptible();
    let usage = Usage::collect(libvirt, &mut chains)?;
    let mut users: Vec<String> =
        usage.users_of(path).into_iter().map(|name| format!("domain '{name}'")).collect();
    let file: Vec<FileKey> = keys(path).collect();
    for image in pool_files(libvirt)? {
        if needs(&chains.below(&image.path)?, &file) {
            users.push(format!("volume '{}' of pool '{}'", image.name, image.pool));
        }
    }
    Ok(users)
}

/// Whether an image needs the file with these keys.
fn needs(below: &Below, file: &[FileKey]) -> bool {
    let is_inside = |key: &FileKey| match key {
        FileKey::Path(path) => {
            below.directories.iter().any(|directory| path.starts_with(directory))
        }
        FileKey::Inode(..) => false,
    };
    file.iter().any(|key| below.keys.contains(key) || is_inside(key))
}

/// An image that may need unknown files, so that other files cannot be deleted.
#[derive(Debug)]
pub(crate) struct UnknownImage {
    /// The image, and the reason why its files are not known.
    pub(crate) unknown: Unknown,
    pub(crate) keys: Vec<FileKey>,
    /// The pools that contain the image, or an image that needs it. None when a domain needs the image; then it may
    /// need files in any pool.
    pools: Option<BTreeSet<String>>,
}

impl UnknownImage {
    /// Whether the image may need a file in this pool.
    fn concerns(&self, pool: &str) -> bool {
        self.pools.as_ref().is_none_or(|pools| pools.contains(pool))
    }
}

/// All images that may need unknown files.
#[derive(Debug, Default)]
pub(crate) struct UnknownImages(Vec<UnknownImage>);

impl UnknownImages {
    /// The images that domains need and that may need unknown files.
    pub(crate) fn needed_by_domains(usage: &Usage) -> Self {
        let image = |unknown: Unknown| UnknownImage {
            keys: keys(&unknown.path).collect(),
            unknown,
            pools: None,
        };
        Self(usage.unknown().map(image).collect())
    }

    /// Adds an image that is in a pool, or that an image of the pool needs, unless the XML of a domain states which
    /// files the image needs.
    pub(crate) fn add(&mut self, usage: &Usage, pool: &str, unknown: Unknown) {
        if usage.is_stated(&unknown) {
            return;
        }
        match self.0.iter_mut().find(|other| other.unknown.path == unknown.path) {
            Some(other) => {
                other.pools.iter_mut().for_each(|pools| pools.extend([pool.to_owned()]));
            }
            None => {
                let pools = Some(BTreeSet::from([pool.to_owned()]));
                self.0.push(UnknownImage { keys: keys(&unknown.path).collect(), unknown, pools });
            }
        }
    }

    /// The first image that may need a file of this pool, except for images with one of the given keys.
    pub(crate) fn first(&self, pool: &str, except: impl Fn(&FileKey) -> bool) -> Option<&Unknown> {
        let mut others = self.concerning(pool).filter(|image| !image.keys.iter().any(&except));
        others.next().map(|image| &image.unknown)
    }

    /// The images that may need a file of this pool.
    pub(crate) fn concerning(&self, pool: &str) -> impl Iterator<Item = &UnknownImage> {
        self.0.iter().filter(move |image| image.concerns(pool))
    }

    /// Whether the file with these keys is an image that may need unknown files.
    pub(crate) fn has(&self, file: &[FileKey]) -> bool {
        self.0.iter().any(|image| image.keys.iter().any(|key| file.contains(key)))
    }

    pub(crate) fn forget(&mut self, file: &[FileKey]) {
        self.0.retain(|image| !image.keys.iter().any(|key| file.contains(key)));
    }
}

/// The error about volumes that may be needed by an image whose files are unknown.
pub(crate) fn may_need(message: String, unknown: &Unknown) -> Error {
    let (path, reason) = (unknown.path.display(), &unknown.reason);
    Error::conflict(format!("{message} by image {path}: {reason}")).hint(format!(
        "examine that image, then repair or delete it: qemu-img info {}",
        quote_path(&unknown.path)
    ))
}

/// The domains and images that depend on the files of a pool.
#[derive(Debug)]
pub(crate) struct Dependents {
    /// The volumes of the pool.
    pub(crate) survey: Survey,
    pool: String,
    above: Vec<DependentImage>,
    unknown: UnknownImages,
}

/// An image that needs other files.
#[derive(Debug)]
struct DependentImage {
    path: PathBuf,
    label: String,
    below: Below,
}

impl Dependents {
    /// Reads every domain and every pool.
    pub(crate) fn take(libvirt: &Libvirt, pool: &Pool) -> Result<Self> {
        let mut survey = Survey::take(libvirt, pool)?;
        let mut files = pool_files(libvirt)?;
        files.extend(survey.volumes.iter().map(|volume| PoolFile {
            pool: pool.name.clone(),
            name: volume.name.clone(),
            path: volume.path.clone(),
            backing: None,
        }));
        files.sort_by(|a, b| a.path.cmp(&b.path));
        files.dedup_by(|a, b| a.path == b.path);
        let mut above = Vec::new();
        for file in &files {
            if let Some(backing) = &file.backing {
                survey.chains.learn(&file.path, backing);
            }
        }
        let mut unknown = UnknownImages::needed_by_domains(&survey.usage);
        for file in files {
            let mut below = survey.chains.below(&file.path)?;
            for image in std::mem::take(&mut below.unknown) {
                unknown.add(&survey.usage, &file.pool, image);
            }
            if below.keys.is_empty() && below.directories.is_empty() {
                continue;
            }
            let label = if file.pool == pool.name {
                format!("volume '{}'", file.name)
            } else {
                format!("volume '{}' of pool '{}'", file.name, file.pool)
            };
            above.push(DependentImage { path: file.path, label, below });
        }
        Ok(Self { survey, pool: pool.name.clone(), above, unknown })
    }

    /// Descriptions of the domains and the volumes that need `path`, for messages.
    pub(crate) fn users_of(&self, path: &Path) -> Vec<String> {
        let file: Vec<FileKey> = keys(path).collect();
        let domains = self.survey.usage.users_of_keys(&file).into_iter();
        let domains = domains.map(|name| format!("domain '{name}'"));
        let needs = |above: &&DependentImage| above.path != path && needs(&above.below, &file);
        domains.chain(self.above.iter().filter(needs).map(|above| above.label.clone())).collect()
    }

    /// Another image that may need `path`, because the files that it needs are unknown.
    pub(crate) fn unknown(&self, path: &Path) -> Option<&Unknown> {
        let file: Vec<FileKey> = keys(path).collect();
        self.unknown.first(&self.pool, |key| file.contains(key))
    }

    /// The volume with this name.
    pub(crate) fn volume(&self, name: &str) -> Option<&Volume> {
        self.survey.volumes.iter().find(|volume| volume.name == name)
    }

    /// The number of files that the image at `path` needs; `usize::MAX` when some are unknown.
    pub(crate) fn height(&self, path: &Path) -> usize {
        if self.unknown.has(&keys(path).collect::<Vec<_>>()) {
            return usize::MAX;
        }
        self.above
            .iter()
            .find(|above| above.path == path)
            .map_or(0, |above| above.below.paths.len())
    }

    /// Counts a file as deleted, so that it needs no other file.
    pub(crate) fn forget(&mut self, path: &Path, keys: &[FileKey]) {
        self.above.retain(|above| above.path != path);
        self.unknown.forget(keys);
    }
}
