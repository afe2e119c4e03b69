//! Whether a file may go: what domains and other images, in whatever pool, need of it.

use std::path::{Path, PathBuf};

use common::Result;
use common::libvirt::Libvirt;

use crate::files::{FileKey, keys};
use crate::pool::Pool;
use crate::usage::{Chains, Usage};
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
            files.extend(Volume::all(&pool)?.into_iter().map(|volume| PoolFile {
                pool: pool.name.clone(),
                name: volume.name,
                path: volume.path,
                backing: volume.backing,
            }));
        }
    }
    Ok(files)
}

/// The domains that need a file, and the images of pools that stand on it, in words.
///
/// Errors: what libvirt says.
pub fn users(libvirt: &Libvirt, path: &Path) -> Result<Vec<String>> {
    let mut chains = Chains::visible(libvirt);
    let usage = Usage::collect(libvirt, &mut chains)?;
    let mut users: Vec<String> =
        usage.of(path).into_iter().map(|name| format!("domain '{name}'")).collect();
    let file: Vec<FileKey> = keys(path).collect();
    for image in pool_files(libvirt)? {
        let chain = chains.chain(&image.path)?;
        if chain.iter().flat_map(|below| keys(below)).any(|key| file.contains(&key)) {
            users.push(format!("volume '{}' of pool '{}'", image.name, image.pool));
        }
    }
    Ok(users)
}

/// Who needs which file of a pool.
#[derive(Debug)]
pub(crate) struct Needs {
    /// The volumes of the pool that was asked about.
    pub(crate) survey: Survey,
    above: Vec<Above>,
}

/// An image that stands on others.
#[derive(Debug)]
struct Above {
    path: PathBuf,
    label: String,
    chain: Vec<FileKey>,
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
        for file in files {
            let chain = survey.chains.chain(&file.path)?;
            if chain.is_empty() {
                continue;
            }
            let label = match file.pool == pool.name {
                true => format!("volume '{}'", file.name),
                false => format!("volume '{}' of pool '{}'", file.name, file.pool),
            };
            let chain = chain.iter().flat_map(|below| keys(below)).collect();
            above.push(Above { path: file.path, label, chain });
        }
        Ok(Self { survey, above })
    }

    /// The domains that need `path` and the volumes that stand on it.
    pub(crate) fn of(&self, path: &Path) -> Vec<String> {
        let domains = self.survey.usage.of(path).into_iter().map(|name| format!("domain '{name}'"));
        let file: Vec<FileKey> = keys(path).collect();
        let stands = |above: &&Above| above.chain.iter().any(|key| file.contains(key));
        domains.chain(self.above.iter().filter(stands).map(|above| above.label.clone())).collect()
    }

    /// The volume of this name.
    pub(crate) fn volume(&self, name: &str) -> Option<&Volume> {
        self.survey.volumes.iter().find(|volume| volume.name == name)
    }

    /// How many images are under `path`.
    pub(crate) fn height(&self, path: &Path) -> usize {
        self.above.iter().find(|above| above.path == path).map_or(0, |above| above.chain.len())
    }

    /// Counts a file as gone: what it stood on is needed by it no more.
    pub(crate) fn forget(&mut self, path: &Path) {
        self.above.retain(|above| above.path != path);
    }
}
