//! `tdx-pool cleanup`: deletes files that these tools created and that nothing uses.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use clap::Args;
use common::cli::config::Config;
use common::cli::{Change, Context, interrupt, log};
use common::document::output::Outcome;
use common::document::{Action, Document};
use common::libvirt::{Context as _, Libvirt, is_gone};
use common::{Error, ErrorKind, Result};

use crate::commands::pool_args::PoolArgs;
use crate::pool::Pool;
use crate::references::inflight;
pub use crate::references::orphans::{CleanupItem, Reason};
use crate::references::orphans::{UnusedFile, find_unused};
use crate::volume::secret;

const EXAMPLES: &str = "Examples:
  tdx-pool cleanup --dry-run
  tdx-pool cleanup --yes";

/// Arguments of `cleanup`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct CleanupArgs {
    #[command(flatten)]
    pool: PoolArgs,
    #[command(flatten)]
    change: Change,
}

/// Finds the files that nothing uses, and deletes those that these tools created. A failure does not stop the others.
///
/// Errors: `unsupported` on a remote connection and `permission` for users other than root, because neither can see
/// which processes have a file open.
pub fn run(
    context: &Context,
    libvirt: &Libvirt,
    config: &Config,
    args: CleanupArgs,
) -> Result<Outcome> {
    if !libvirt.is_local() {
        return Err(Error::unsupported(
            "tdx-pool cleanup cannot read the processes and locks of a remote host",
        )
        .hint("run tdx-pool cleanup on that host"));
    }
    if !rustix::process::geteuid().is_root() {
        return Err(Error::permission(
            "tdx-pool cleanup needs root to read the open files of every process",
        )
        .hint("run sudo tdx-pool cleanup"));
    }
    interrupt::guard();
    let change = args.change;
    let pool = Pool::resolve(libvirt, config, args.pool.name())?;
    let mut files = find_unused(&context.host, libvirt, &pool)?;
    let orphans = count_orphans(&files);
    if orphans > 0 && !change.yes && !change.dry_run {
        context.confirm(change, &format!("delete {orphans} orphans from pool '{}'?", pool.name))?;
        // Something may have begun to use one of the files while the question was open.
        let asked: HashSet<String> = files.into_iter().map(|file| file.item.name).collect();
        files = find_unused(&context.host, libvirt, &pool)?;
        files.retain(|file| asked.contains(&file.item.name));
    }
    let items =
        if change.dry_run { plan(files) } else { delete_all(context, libvirt, &pool, files)? };
    Ok(Document::new("tdx.pool.cleanup", items).dry_run(change.dry_run).into())
}

fn count_orphans(files: &[UnusedFile]) -> usize {
    files.iter().filter(|file| file.item.reason == Reason::Orphan).count()
}

fn plan(files: Vec<UnusedFile>) -> Vec<CleanupItem> {
    let planned = files.into_iter().map(|UnusedFile { mut item, .. }| {
        if item.reason == Reason::Orphan {
            item.action = Action::Delete;
        }
        item
    });
    planned.collect()
}

/// Deletes the orphans in the given order: each image before the images that back it.
fn delete_all(
    context: &Context,
    libvirt: &Libvirt,
    pool: &Pool,
    files: Vec<UnusedFile>,
) -> Result<Vec<CleanupItem>> {
    let mut items = Vec::new();
    let mut failed: Option<Error> = None;
    let mut needed: HashSet<PathBuf> = HashSet::new();
    for UnusedFile { mut item, below, is_unknown, .. } in files {
        if item.reason == Reason::Orphan && !needed.contains(&PathBuf::from(&item.path)) {
            match interrupt::check().and_then(|()| delete(libvirt, pool, &item)) {
                Ok(()) => item.action = Action::Delete,
                Err(error) => {
                    failed = Some(failed.unwrap_or(error));
                    needed.extend(below);
                    // The image still exists, and the files that it needs are not known.
                    if is_unknown {
                        items.push(item);
                        break;
                    }
                }
            }
        }
        items.push(item);
    }
    if failed.as_ref().is_none_or(|error| error.kind() != ErrorKind::Interrupted) {
        inflight::sweep(&context.host);
    }
    match failed {
        None => Ok(items),
        Some(error) => {
            let deleted = items.iter().filter(|item| item.action == Action::Delete);
            Err(error.applied(deleted.map(|item| format!("deleted volume '{}'", item.name))))
        }
    }
}

fn delete(libvirt: &Libvirt, pool: &Pool, item: &CleanupItem) -> Result<()> {
    log::step(format_args!("delete {}", item.path));
    match pool.volume(&item.name)?.map(|volume| volume.delete(0)) {
        Some(Err(error)) if !is_gone(&error) => {
            return Err(error).context(format_args!("delete volume '{}'", item.name));
        }
        _ => {}
    }
    secret::forget_with(libvirt, &item.name, Path::new(&item.path))
}
