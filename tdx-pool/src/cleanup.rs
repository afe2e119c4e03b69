//! `tdx-pool cleanup`: our leftovers, and nothing else.
//!
//! Deleted is a file that bears one of our names ([`Ours`]), that no domain, snapshot or image needs,
//! that no creation under way has locked, and that no process holds open or locked. Whatever else
//! nothing needs is listed and left: the pool may be the host's `default`, with other people's disks.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use clap::Args;
use common::cli::{Change, Context};
use common::config::Config;
use common::document::{Action, Document, Item};
use common::host::Host;
use common::libvirt::{Context as _, Libvirt, is_gone};
use common::output::Outcome;
use common::units::Size;
use common::{Error, IoContext, Result, interrupt, log};
use schemars::JsonSchema;
use serde::Serialize;

use crate::cli::PoolArgs;
use crate::inflight;
use crate::names::Ours;
use crate::pool::{Pool, canonical};
use crate::usage::{Chains, Usage};

/// Arguments of `cleanup`.
#[derive(Debug, Args)]
pub struct CleanupArgs {
    #[command(flatten)]
    pool: PoolArgs,
    #[command(flatten)]
    change: Change,
}

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
    name: String,
    /// The pool's name.
    pool: String,
    /// Where it is, or was.
    path: String,
    /// Its size on disk, bytes.
    allocation_bytes: u64,
    /// Why it is deleted or left.
    reason: Reason,
    /// `delete` or `none`.
    action: Action,
}

impl Item for CleanupItem {
    const COLUMNS: &'static [&'static str] = &["NAME", "ACTION", "REASON", "ALLOCATION"];

    fn key(&self) -> Cow<'_, str> {
        self.name.as_str().into()
    }

    fn row(&self) -> Vec<String> {
        vec![
            self.name.clone(),
            self.action.0.to_owned(),
            self.reason.as_str().to_owned(),
            Size(self.allocation_bytes).to_string(),
        ]
    }

    fn action(&self) -> Option<Action> {
        Some(self.action)
    }
}

/// Finds what nothing needs and deletes what of it is ours.
///
/// Errors: `unsupported` on a remote connection and `permission` for anyone but root: neither can see
/// who holds a file open, and a deleted disk does not come back.
pub fn run(
    context: &Context,
    libvirt: &Libvirt,
    config: &Config,
    args: CleanupArgs,
) -> Result<Outcome> {
    if !libvirt.is_local() {
        return Err(Error::unsupported("cleanup cannot see the remote host's processes and locks")
            .hint("run it on that host"));
    }
    if !rustix::process::geteuid().is_root() {
        return Err(
            Error::permission("cleanup must see every process's open files").hint("run it as root")
        );
    }
    interrupt::guard();
    let pool = Pool::resolve(libvirt, config, &args.pool)?;
    let mut items = survey(&context.host, libvirt, &pool)?;
    let orphans = items.iter().filter(|item| item.reason == Reason::Orphan).count();
    if orphans > 0 {
        let question = format!("delete {orphans} orphans from pool '{}'?", pool.name);
        context.confirm(args.change, &question)?;
    }
    let mut deleted = Vec::new();
    for item in items.iter_mut().filter(|item| item.reason == Reason::Orphan) {
        let done = match args.change.dry_run {
            true => Ok(()),
            false => interrupt::check().and_then(|()| delete(&pool, item)),
        };
        if let Err(error) = done {
            return Err(error.applied(deleted));
        }
        item.action = Action("delete");
        deleted.push(format!("deleted volume '{}'", item.name));
    }
    Ok(Document::new("tdx.pool.cleanup", items).dry_run(args.change.dry_run).into())
}

fn delete(pool: &Pool, item: &CleanupItem) -> Result<()> {
    log::step(format_args!("delete {}", item.path));
    let doing = format_args!("delete volume '{}'", item.name);
    match pool.volume(&item.name)? {
        None => Ok(()),
        Some(volume) => match volume.delete(0) {
            Err(error) if is_gone(&error) => Ok(()),
            done => done.context(doing),
        },
    }
}

/// Every file of the pool that nothing refers to.
fn survey(host: &Host, libvirt: &Libvirt, pool: &Pool) -> Result<Vec<CleanupItem>> {
    let folder = pool.folder()?.to_owned();
    pool.refresh()?;
    let mut chains = Chains::strict();
    // The order matters: names first, then who needs them. A volume made in between is not judged.
    let names = pool.handle.list_volumes().context("list volumes")?;
    let usage = Usage::collect(libvirt, &mut chains)?;
    let unused = names.into_iter().filter_map(|name| {
        let path = folder.join(&name);
        usage.of(&path).is_empty().then_some((name, path))
    });
    let (ours, others): (Vec<_>, Vec<_>) =
        unused.partition(|(name, _)| Ours::classify(name).is_some());
    let mut needed: HashSet<PathBuf> = HashSet::new();
    let mut roots: Vec<PathBuf> = others.iter().map(|(_, path)| path.clone()).collect();
    roots.extend(other_pools(libvirt, pool)?);
    for root in roots {
        needed.extend(chains.chain(&root)?);
    }
    let mut items = Vec::new();
    for (name, path) in others {
        items.extend(item(pool, name, &path, Reason::Other)?);
    }
    let mut ours: Vec<(String, PathBuf)> =
        ours.into_iter().filter(|(_, path)| !needed.contains(&canonical(path))).collect();
    let held = if ours.is_empty() { HashSet::new() } else { held_files(host)? };
    // What a kept file stands on is kept: judge from the top of each chain down.
    ours.sort_by_cached_key(|(_, path)| {
        std::cmp::Reverse(chains.chain(path).map_or(0, |c| c.len()))
    });
    let mut kept: HashMap<PathBuf, Reason> = HashMap::new();
    for (name, path) in ours {
        let path = canonical(&path);
        let reason = match () {
            () if inflight::is_in_flight(host, &name)? => Reason::InFlight,
            () if is_held(&held, &path)? => Reason::Open,
            () => kept.get(&path).copied().unwrap_or(Reason::Orphan),
        };
        if reason != Reason::Orphan {
            kept.extend(chains.chain(&path)?.into_iter().map(|below| (below, reason)));
        }
        items.extend(item(pool, name, &path, reason)?);
    }
    Ok(items)
}

/// The document's entry for a file; none when it went away meanwhile.
fn item(pool: &Pool, name: String, path: &Path, reason: Reason) -> Result<Option<CleanupItem>> {
    let metadata = match path.symlink_metadata() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        metadata => metadata.at("look at", path)?,
    };
    Ok(Some(CleanupItem {
        name,
        pool: pool.name.clone(),
        path: path.display().to_string(),
        allocation_bytes: metadata.blocks() * 512,
        reason,
        action: Action::NONE,
    }))
}

/// The files of every other pool: images there may stand on ours.
fn other_pools(libvirt: &Libvirt, pool: &Pool) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for other in Pool::all(libvirt)?.into_iter().filter(|other| other.name != pool.name) {
        if let (true, Ok(folder)) = (other.is_active(), other.folder()) {
            let names = other.handle.list_volumes().context("list volumes")?;
            files.extend(names.into_iter().map(|name| folder.join(name)));
        }
    }
    Ok(files)
}

/// A file whatever its name: device and inode.
type FileId = (u64, u64);

fn is_held(held: &HashSet<FileId>, path: &Path) -> Result<bool> {
    match path.metadata() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
        metadata => {
            let metadata = metadata.at("look at", path)?;
            Ok(held.contains(&(metadata.dev(), metadata.ino())))
        }
    }
}

/// Every file that some process holds open, in whatever mount namespace, or that is locked.
///
/// Source: proc_pid_fd(5): the links are followed to the open file itself; proc_locks(5):
/// `major:minor:inode` with hexadecimal device numbers.
fn held_files(host: &Host) -> Result<HashSet<FileId>> {
    let mut held = HashSet::new();
    let proc = host.path("/proc");
    for process in std::fs::read_dir(&proc).at("read", &proc)?.flatten() {
        if !process.file_name().as_encoded_bytes().iter().all(u8::is_ascii_digit) {
            continue;
        }
        // A process that ends meanwhile holds nothing.
        let Ok(descriptors) = std::fs::read_dir(process.path().join("fd")) else {
            continue;
        };
        for descriptor in descriptors.flatten() {
            if let Ok(metadata) = std::fs::metadata(descriptor.path()) {
                held.insert((metadata.dev(), metadata.ino()));
            }
        }
    }
    let locks = host.read("/proc/locks")?.unwrap_or_default();
    held.extend(locks.lines().filter_map(locked_file));
    Ok(held)
}

fn locked_file(line: &str) -> Option<FileId> {
    let mut parts = line.split_whitespace().find(|word| word.matches(':').count() == 2)?.split(':');
    let major = u32::from_str_radix(parts.next()?, 16).ok()?;
    let minor = u32::from_str_radix(parts.next()?, 16).ok()?;
    Some((rustix::fs::makedev(major, minor), parts.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locks_name_their_files() {
        for (line, inode) in [
            ("1: FLOCK  ADVISORY  WRITE 512 00:19:1013 0 EOF", Some(1013)),
            ("2: OFDLCK ADVISORY  READ -1 fe:00:42 100 101", Some(42)),
            ("3: -> POSIX ADVISORY  READ 9 fe:00:43 0 EOF", Some(43)),
            ("4: LEASE ACTIVE READ 9", None),
        ] {
            assert_eq!(locked_file(line).map(|file| file.1), inode, "{line}");
        }
        let (device, _) = locked_file("2: OFDLCK ADVISORY  READ -1 fe:01:42 100 101").unwrap();
        assert_eq!(device, rustix::fs::makedev(0xfe, 1));
    }
}
