//! Which files of a pool nothing needs.
//!
//! An orphan is a regular file with a name that these tools give ([`ToolFile`]). No domain, snapshot or
//! image needs an orphan, no process is creating it, and no process has it open or locked. Other files that
//! nothing needs are listed and left: the pool may be the host's `default`, with other people's disks.

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

/// Why a file that nothing refers to is deleted or left.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// Ours, and nothing needs it: deleted.
    Orphan,
    /// Some process is making it right now: left.
    InFlight,
    /// Some process holds it open or locked: left.
    Open,
    /// Anything else, a base image among them: left.
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

/// A file that nothing refers to, and what was done to it.
#[derive(Debug, Serialize, JsonSchema)]
pub struct CleanupItem {
    /// Name within the pool.
    pub(crate) name: String,
    /// The pool's name.
    pub(crate) pool: String,
    /// UUID of the pool.
    pub(crate) pool_uuid: Option<String>,
    /// Where it is, or was.
    pub(crate) path: String,
    /// Its size on disk, bytes; 0 for a disk that is gone and left a passphrase with libvirt.
    pub(crate) allocation_bytes: u64,
    /// Why it is deleted or left.
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
    /// Whether it may need others, which are not known.
    pub(crate) is_unknown: bool,
}

/// Every file of the pool that nothing refers to, images before what they are backed by.
///
/// Files are looked at in an order that makes this safe while a volume is being created. The creation takes
/// its lock, creates the file, makes something refer to the file, and drops the lock. Locks are looked at
/// after the names of the files, and references after the locks. So a file that is not locked either is
/// referred to already, or never will be.
///
/// Errors: `conflict` when there are orphans and an image is left whose files are not known.
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
            continue; // deleted meanwhile
        };
        let below = chains.below(&path)?.paths;
        let is_unknown = unknown.has(&keys);
        unused.push(UnusedFile { item, keys, below, is_unknown });
    }
    Ok(unused)
}

/// The disks of the pool that are gone and left a passphrase with libvirt.
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

/// Refuses to delete anything beside an image that may need it: an image whose files are not known,
/// unless that is deleted as well.
fn check_known(pool: &Pool, unused: &[UnusedFile], unknown: &UnknownImages) -> Result<()> {
    let orphans = unused.iter().filter(|file| file.item.reason == Reason::Orphan);
    let orphans: HashSet<&FileKey> = orphans.flat_map(|file| &file.keys).collect();
    match unknown.first(&pool.name, |key| orphans.contains(key)) {
        Some(unknown) if !orphans.is_empty() => {
            let message = format!("the orphans of pool '{}' may be needed", pool.name);
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

/// What images need that cleanup does not judge: in this pool those of others, in other pools all.
struct NeededByOthers {
    /// The files that they need.
    needed: HashSet<FileKey>,
    /// The images of all pools and domains whose files are not known.
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

/// Whether a file is one that these tools create, by its name, and neither a link nor a directory.
fn is_tool_file(name: &str, path: &Path) -> bool {
    ToolFile::classify(name).is_some()
        && path.symlink_metadata().is_ok_and(|metadata| metadata.is_file())
}

/// The document's entry for a file, an orphan for now if it can be one; none when it went away.
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
