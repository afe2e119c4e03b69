//! Finds the files of a pool that nothing uses.
//!
//! An orphan is a regular file with a name that these tools choose ([`ToolFile`]). No domain, snapshot or image needs
//! an orphan, no process is creating it, and no process has it open or locked. Other unused files are listed and
//! kept, because the pool may be the host's `default` pool with disks of other people.

use std::borrow::Cow;
use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use common::document::{Action, Item};
use common::image::{FileKey, canonical, keys};
use common::libvirt::{Context as _, Libvirt};
use common::system::sysroot::Host;
use common::units::Size;
use common::{IoContext, Result};
use schemars::JsonSchema;
use serde::Serialize;

use crate::pool::Pool;
use crate::references::chains::Chains;
use crate::references::dependents::{UnknownImages, pool_files};
use crate::references::open_files::HeldFiles;
use crate::references::usage::Usage;
use crate::references::{dependents, inflight};
use crate::volume::names::ToolFile;
use crate::volume::secret;

/// Why a file that nothing refers to is deleted or kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// These tools created the file and nothing uses it. It is deleted.
    Orphan,
    /// A process is creating the file now. It is kept.
    InFlight,
    /// A process has the file open or locked. It is kept.
    Open,
    /// Any other file, such as a base image. It is kept.
    Other,
}

impl Reason {
    fn as_str(self) -> &'static str {
        match self {
            Self::Orphan => "orphan",
            Self::InFlight => "in_flight",
            Self::Open => "open",
            Self::Other => "other",
        }
    }
}

/// A file that nothing refers to, in a document of `tdx-pool cleanup`.
#[derive(Debug, Serialize, JsonSchema)]
pub struct CleanupItem {
    /// The name of the file in the pool.
    pub(crate) name: String,
    /// The name of the pool.
    pub(crate) pool: String,
    /// The UUID of the pool.
    pub(crate) pool_uuid: Option<String>,
    /// The path of the file, which may be deleted now.
    pub(crate) path: String,
    /// The size on disk, in bytes; 0 for a deleted disk whose passphrase libvirt still has.
    pub(crate) allocation_bytes: u64,
    /// Why the file is deleted or kept.
    pub(crate) reason: Reason,
    /// `delete` or `none`.
    pub(crate) action: Action,
}

impl Item for CleanupItem {
    const COLUMNS: &'static [&'static str] = &["NAME", "ACTION", "REASON", "ALLOCATION"];

    fn key(&self) -> Cow<'_, str> {
        self.name.as_str().into()
    }

    fn row(&self) -> Vec<String> {
        vec![
            self.name.clone(),
            self.action.to_string(),
            self.reason.as_str().to_owned(),
            Size(self.allocation_bytes).to_string(),
        ]
    }

    fn action(&self) -> Option<Action> {
        Some(self.action)
    }
}

/// A file that nothing refers to.
pub(crate) struct UnusedFile {
    pub(crate) item: CleanupItem,
    /// The keys of the file.
    keys: Vec<FileKey>,
    /// The files that it needs, as canonical paths.
    pub(crate) below: Vec<PathBuf>,
    /// Whether it may need unknown files.
    pub(crate) is_unknown: bool,
}

/// Every file of the pool that nothing refers to, each image before the files that back it.
///
/// The order of the checks makes this safe while another process creates a volume. That process takes its lock, creates
/// the file, creates a reference to the file, and releases the lock. This function reads the names of the files first,
/// then the locks, then the references. A file without a lock is therefore already referred to, or never will be.
///
/// Errors: `conflict` when the pool has orphans and the files that a kept image needs are unknown.
pub(crate) fn find_unused(host: &Host, libvirt: &Libvirt, pool: &Pool) -> Result<Vec<UnusedFile>> {
    pool.folder()?;
    pool.refresh()?;
    let names = names(pool)?;
    let in_flight = names_in_flight(host, &names)?;
    let mut chains = Chains::visible(libvirt);
    let usage = Usage::collect(libvirt, &mut chains)?;
    let others = NeededByOthers::collect(libvirt, pool, &mut chains, &usage)?;
    let held = HeldFiles::all(host)?;

    let mut unused = unused_files(pool, names, &mut chains, &usage, &others.unknown)?;
    unused.extend(unused_secrets(host, libvirt, pool, &usage)?);
    // The files below a kept file are kept: images are judged before the files below them. Equals are judged by name.
    unused.sort_by(|a, b| a.item.name.cmp(&b.item.name));
    unused.sort_by_key(|file| Reverse((file.is_unknown, file.below.len())));
    let mut kept: HashMap<FileKey, Reason> = HashMap::new();
    unused.retain_mut(|UnusedFile { item, keys: own, below, .. }| {
        if item.reason == Reason::Other {
            return true;
        }
        if own.iter().any(|key| others.needed.contains(key)) {
            return false;
        }
        item.reason = if in_flight.contains(&item.name) {
            Reason::InFlight
        } else if held.contains(own) {
            Reason::Open
        } else {
            own.iter().find_map(|key| kept.get(key).copied()).unwrap_or(Reason::Orphan)
        };
        if item.reason != Reason::Orphan {
            let below = below.iter().flat_map(|below| keys(below));
            kept.extend(below.map(|key| (key, item.reason)));
        }
        true
    });
    check_known(pool, &unused, &others.unknown)?;
    Ok(unused)
}

/// The names of files of these tools that some process is creating.
fn names_in_flight(host: &Host, names: &[String]) -> Result<HashSet<String>> {
    let mut in_flight = HashSet::new();
    for name in names.iter().filter(|name| ToolFile::classify(name).is_some()) {
        if inflight::is_in_flight(host, name)? {
            in_flight.insert(name.clone());
        }
    }
    Ok(in_flight)
}

/// The files of the pool that no domain needs.
fn unused_files(
    pool: &Pool,
    names: Vec<String>,
    chains: &mut Chains,
    usage: &Usage,
    unknown: &UnknownImages,
) -> Result<Vec<UnusedFile>> {
    let folder = pool.folder()?;
    let mut unused = Vec::new();
    for name in names {
        let path = folder.join(&name);
        let keys = chains.keys(&path);
        if !usage.users_of_keys(&keys).is_empty() {
            continue;
        }
        let Some(item) = item(pool, name, &path)? else {
            continue; // deleted after the listing
        };
        let below = chains.below(&path)?.paths;
        let is_unknown = unknown.has(&keys);
        unused.push(UnusedFile { item, keys, below, is_unknown });
    }
    Ok(unused)
}

/// The deleted disks of the pool whose passphrase libvirt still has.
fn unused_secrets(
    host: &Host,
    libvirt: &Libvirt,
    pool: &Pool,
    usage: &Usage,
) -> Result<Vec<UnusedFile>> {
    let orphans = secret::orphans(host, libvirt, pool.folder()?, usage)?;
    let unused = orphans.into_iter().map(|(name, path)| {
        let item = CleanupItem {
            name,
            pool: pool.name.clone(),
            pool_uuid: pool.uuid.clone(),
            path: path.display().to_string(),
            allocation_bytes: 0,
            reason: Reason::Orphan,
            action: Action::None,
        };
        UnusedFile { item, keys: Vec::new(), below: Vec::new(), is_unknown: false }
    });
    Ok(unused.collect())
}

/// Refuses to delete orphans that an image may need: an image whose files are unknown, unless it is an orphan itself.
fn check_known(pool: &Pool, unused: &[UnusedFile], unknown: &UnknownImages) -> Result<()> {
    let orphans = unused.iter().filter(|file| file.item.reason == Reason::Orphan);
    let orphans: HashSet<&FileKey> = orphans.flat_map(|file| &file.keys).collect();
    match unknown.first(&pool.name, |key| orphans.contains(key)) {
        Some(unknown) if !orphans.is_empty() => {
            let message = format!("orphans of pool '{}' may be needed", pool.name);
            Err(dependents::may_need(message, unknown))
        }
        _ => Ok(()),
    }
}

/// The names of all volumes. (The binding's `list_volumes` ends at 1,024.)
fn names(pool: &Pool) -> Result<Vec<String>> {
    let doing = format_args!("list the volumes of pool '{}'", pool.name);
    let volumes = pool.handle.list_all_volumes(0).context(doing)?;
    volumes.iter().map(|volume| volume.name().context(doing)).collect()
}

/// The files that images need which cleanup never deletes: other files of this pool, and all files of other pools.
struct NeededByOthers {
    /// The files that they need.
    needed: HashSet<FileKey>,
    /// The images of all pools and domains that may need unknown files.
    unknown: UnknownImages,
}

impl NeededByOthers {
    fn collect(libvirt: &Libvirt, pool: &Pool, chains: &mut Chains, usage: &Usage) -> Result<Self> {
        let mut needed = HashSet::new();
        let mut unknown = UnknownImages::needed_by_domains(usage);
        for file in pool_files(libvirt)? {
            let below = chains.below(&file.path)?;
            below.unknown.into_iter().for_each(|image| unknown.add(usage, &file.pool, image));
            let judged = file.pool == pool.name && is_tool_file(&file.name, &file.path);
            if !judged {
                needed.extend(below.keys);
            }
        }
        Ok(Self { needed, unknown })
    }
}

/// Whether a file has a name that these tools choose and is a regular file.
fn is_tool_file(name: &str, path: &Path) -> bool {
    ToolFile::classify(name).is_some()
        && path.symlink_metadata().is_ok_and(|metadata| metadata.is_file())
}

/// The item for a file, with the reason `orphan` for now if it can be an orphan; none when the file was deleted.
fn item(pool: &Pool, name: String, path: &Path) -> Result<Option<CleanupItem>> {
    let metadata = match path.symlink_metadata() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        metadata => metadata.at("examine", path)?,
    };
    let reason = if is_tool_file(&name, path) { Reason::Orphan } else { Reason::Other };
    Ok(Some(CleanupItem {
        name,
        pool: pool.name.clone(),
        pool_uuid: pool.uuid.clone(),
        path: canonical(path).display().to_string(),
        allocation_bytes: metadata.blocks() * 512,
        reason,
        action: Action::None,
    }))
}
