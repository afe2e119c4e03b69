//! Whether a file may go: what domains and other images, in whatever pool, need of it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use common::image::{Below, FileKey, Unknown, keys};
use common::libvirt::Libvirt;
use common::shell::quote_path;
use common::{Error, Result};

use crate::pool::Pool;
use crate::references::usage::{Chains, Usage};
use crate::volume::{Survey, Volume};

/// An image in some pool.
#[derive(Debug)]
pub(crate) struct PoolFile {
    /// The pool's name.
    pub(crate) pool: String,
    /// Its name there.
    pub(crate) name: String,
    /// Where it is.
    pub(crate) path: PathBuf,
    /// What it stands on, where libvirt had to be asked.
    pub(crate) backing: Option<PathBuf>,
}

/// Every file in the folders of all pools, started or not, and every volume of pools that have none.
///
/// A folder says more than libvirt, which lists what was there when it last looked. What cannot be
/// read is taken from libvirt.
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

/// The domains that need a file, and the images of pools that need it, in words.
///
/// A signal does not end the reading: it may be why a file that was just made is to go.
///
/// Errors: what libvirt says.
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

/// Whether the file with these keys is among those below an image.
fn needs(below: &Below, file: &[FileKey]) -> bool {
    let is_inside = |key: &FileKey| match key {
        FileKey::Path(path) => {
            below.directories.iter().any(|directory| path.starts_with(directory))
        }
        FileKey::Inode(..) => false,
    };
    file.iter().any(|key| below.keys.contains(key) || is_inside(key))
}

/// An image that may need files which are not known, so that others cannot be deleted.
#[derive(Debug)]
pub(crate) struct UnknownImage {
    /// The image, and why its files are not known.
    pub(crate) unknown: Unknown,
    pub(crate) keys: Vec<FileKey>,
    /// The pools that have it, or an image above it; none when a domain needs it, wherever it is.
    pools: Option<BTreeSet<String>>,
}

impl UnknownImage {
    /// Whether it may need a file in this pool.
    fn concerns(&self, pool: &str) -> bool {
        self.pools.as_ref().is_none_or(|pools| pools.contains(pool))
    }
}

/// Every image that may need files which are not known.
#[derive(Debug, Default)]
pub(crate) struct UnknownImages(Vec<UnknownImage>);

impl UnknownImages {
    /// Those of domains.
    pub(crate) fn of_domains(usage: &Usage) -> Self {
        let image = |unknown: Unknown| UnknownImage {
            keys: keys(&unknown.path).collect(),
            unknown,
            pools: None,
        };
        Self(usage.unknown().map(image).collect())
    }

    /// Adds one that lies in a pool, or below an image of it, unless the XML of a domain states what it
    /// needs.
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

    /// The first one that may need a file of this pool, those with one of these keys left out.
    pub(crate) fn first(&self, pool: &str, except: impl Fn(&FileKey) -> bool) -> Option<&Unknown> {
        let mut others = self.of_pool(pool).filter(|image| !image.keys.iter().any(&except));
        others.next().map(|image| &image.unknown)
    }

    /// Those that may need a file of this pool.
    pub(crate) fn of_pool(&self, pool: &str) -> impl Iterator<Item = &UnknownImage> {
        self.0.iter().filter(move |image| image.concerns(pool))
    }

    /// Whether the file with these keys is one of them.
    pub(crate) fn has(&self, file: &[FileKey]) -> bool {
        self.0.iter().any(|image| image.keys.iter().any(|key| file.contains(key)))
    }

    pub(crate) fn forget(&mut self, file: &[FileKey]) {
        self.0.retain(|image| !image.keys.iter().any(|key| file.contains(key)));
    }
}

/// The error about volumes that may be needed by an image whose files are not known.
pub(crate) fn may_need(message: String, unknown: &Unknown) -> Error {
    let (path, reason) = (unknown.path.display(), &unknown.reason);
    Error::conflict(format!("{message} by image {path}: {reason}")).hint(format!(
        "repair or delete that image first: qemu-img info {}",
        quote_path(&unknown.path)
    ))
}

/// Who needs which file of a pool.
#[derive(Debug)]
pub(crate) struct Needs {
    /// The volumes of the pool that was asked about.
    pub(crate) survey: Survey,
    pool: String,
    above: Vec<Above>,
    unknown: UnknownImages,
}

/// An image that needs others.
#[derive(Debug)]
struct Above {
    path: PathBuf,
    label: String,
    below: Below,
}

impl Needs {
    /// Looks at every domain and every pool.
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
        let mut unknown = UnknownImages::of_domains(&survey.usage);
        for file in files {
            let mut below = survey.chains.below(&file.path)?;
            for image in std::mem::take(&mut below.unknown) {
                unknown.add(&survey.usage, &file.pool, image);
            }
            if below.keys.is_empty() && below.directories.is_empty() {
                continue;
            }
            let label = match file.pool == pool.name {
                true => format!("volume '{}'", file.name),
                false => format!("volume '{}' of pool '{}'", file.name, file.pool),
            };
            above.push(Above { path: file.path, label, below });
        }
        Ok(Self { survey, pool: pool.name.clone(), above, unknown })
    }

    /// The domains that need `path`, and the volumes that do.
    pub(crate) fn of(&self, path: &Path) -> Vec<String> {
        let file: Vec<FileKey> = keys(path).collect();
        let domains = self.survey.usage.of_keys(&file).into_iter();
        let domains = domains.map(|name| format!("domain '{name}'"));
        let needs = |above: &&Above| above.path != path && needs(&above.below, &file);
        domains.chain(self.above.iter().filter(needs).map(|above| above.label.clone())).collect()
    }

    /// Another image that may need `path`: which files it needs is not known.
    pub(crate) fn unknown(&self, path: &Path) -> Option<&Unknown> {
        let file: Vec<FileKey> = keys(path).collect();
        self.unknown.first(&self.pool, |key| file.contains(key))
    }

    /// The volume of this name.
    pub(crate) fn volume(&self, name: &str) -> Option<&Volume> {
        self.survey.volumes.iter().find(|volume| volume.name == name)
    }

    /// How many files are below `path`; more than below any other when they are not all known.
    pub(crate) fn height(&self, path: &Path) -> usize {
        if self.unknown.has(&keys(path).collect::<Vec<_>>()) {
            return usize::MAX;
        }
        self.above
            .iter()
            .find(|above| above.path == path)
            .map_or(0, |above| above.below.paths.len())
    }

    /// Counts a file as gone: it needs others no more.
    pub(crate) fn forget(&mut self, path: &Path, keys: &[FileKey]) {
        self.above.retain(|above| above.path != path);
        self.unknown.forget(keys);
    }
}
