//! `tdx-pool delete`: volumes that nothing needs.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use clap::Args;
use common::cli::{Change, Context};
use common::config::Config;
use common::document::{Action, Document, Item};
use common::host::Host;
use common::libvirt::{Context as _, Libvirt, is_gone};
use common::output::Outcome;
use common::{Error, Result, input, interrupt, log, name};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::inflight;
use crate::needs::Needs;
use crate::pool::Pool;
use crate::secret;
use crate::wanted::PoolArgs;

/// Arguments of `delete`.
#[derive(Debug, Args)]
pub struct DeleteArgs {
    /// Volumes to delete, or - for a document of volumes on standard input
    #[arg(required = true, value_name = "VOLUME")]
    volumes: Vec<String>,
    #[command(flatten)]
    pool: PoolArgs,
    #[command(flatten)]
    change: Change,
}

/// A volume and what was done to it.
#[derive(Debug, Serialize, JsonSchema)]
pub struct DeleteItem {
    /// Name within the pool.
    name: String,
    /// The pool's name.
    pool: String,
    /// Where it was; null when it was not there.
    path: Option<String>,
    /// `delete`, or `none` for a volume that was not there.
    action: Action,
}

impl Item for DeleteItem {
    const COLUMNS: &'static [&'static str] = &["NAME", "ACTION", "PATH"];

    fn key(&self) -> Cow<'_, str> {
        self.name.as_str().into()
    }

    fn row(&self) -> Vec<String> {
        let path = self.path.clone().unwrap_or_default();
        vec![self.name.clone(), self.action.0.to_owned(), path]
    }

    fn action(&self) -> Option<Action> {
        Some(self.action)
    }
}

/// Deletes each volume unless a domain or another image needs it, images before what they stand on.
/// All are tried.
pub fn run(
    context: &Context,
    connect: impl FnOnce() -> Result<Libvirt>,
    config: &Config,
    args: DeleteArgs,
) -> Result<Outcome> {
    let wanted = wanted(args.volumes, &args.pool)?;
    let libvirt = connect()?;
    interrupt::guard();
    let dry_run = args.change.dry_run;
    let host = libvirt.is_local().then_some(&context.host);
    let batches: Vec<Batch> = wanted
        .into_iter()
        .map(|(pool, names)| {
            let pool = Pool::resolve(&libvirt, config, &PoolArgs { pool })?;
            let needs = Needs::take(&libvirt, &pool)?;
            Ok(Batch { needs, pool, names, libvirt: &libvirt, host })
        })
        .collect::<Result<_>>()?;
    let there: Vec<&str> = batches.iter().flat_map(Batch::there).collect();
    if !there.is_empty() {
        context.confirm(args.change, &format!("delete {}?", there.join(", ")))?;
    }
    let mut items = Vec::new();
    let mut failed: Option<Error> = None;
    for batch in batches {
        for done in batch.delete(dry_run) {
            match done {
                Ok(item) => items.push(item),
                Err(error) => failed = Some(failed.unwrap_or(error)),
            }
        }
    }
    if let Some(error) = failed {
        let deleted = items.iter().filter(|item| item.action != Action::NONE && !dry_run);
        return Err(error.applied(deleted.map(|item| format!("deleted volume '{}'", item.name))));
    }
    Ok(Document::new("tdx.pool.delete", items).dry_run(dry_run).into())
}

/// An item says which pool it is in: a name alone could hit another pool's volume.
#[derive(Deserialize)]
struct Named {
    #[serde(deserialize_with = "name::deserialize")]
    name: String,
    #[serde(default, deserialize_with = "name::deserialize_option")]
    pool: Option<String>,
}

/// The names, each once, by pool; the pool of the flag or the default one is none.
fn wanted(
    words: Vec<String>,
    args: &PoolArgs,
) -> Result<BTreeMap<Option<String>, BTreeSet<String>>> {
    let mut wanted: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
    if !words.iter().any(|word| word == input::STDIN) {
        words.iter().try_for_each(|word| name::check("volume", word))?;
        wanted.insert(args.pool.clone(), words.into_iter().collect());
        return Ok(wanted);
    }
    if words.len() > 1 {
        return Err(Error::usage("- stands alone: name volumes or read them from standard input"));
    }
    let kinds = ["tdx.pool.volumes", "tdx.pool.import", "tdx.pool.cleanup", "tdx.pool.delete"];
    for item in input::items::<Named>(&kinds, "volumes with a name")? {
        if let (Some(asked), Some(there)) = (&args.pool, &item.pool)
            && asked != there
        {
            return Err(Error::usage(format!(
                "volume '{}' is in pool '{there}', but --pool says '{asked}'",
                item.name
            )));
        }
        wanted.entry(item.pool.or_else(|| args.pool.clone())).or_default().insert(item.name);
    }
    Ok(wanted)
}

/// What is to go from one pool.
struct Batch<'a> {
    pool: Pool,
    needs: Needs,
    names: BTreeSet<String>,
    libvirt: &'a Libvirt,
    /// The machine, when the pool is on it.
    host: Option<&'a Host>,
}

impl Batch<'_> {
    fn there(&self) -> impl Iterator<Item = &str> {
        self.names.iter().map(String::as_str).filter(|name| self.needs.volume(name).is_some())
    }

    fn delete(mut self, dry_run: bool) -> Vec<Result<DeleteItem>> {
        let mut names: Vec<String> = std::mem::take(&mut self.names).into_iter().collect();
        names.sort_by_cached_key(|name| {
            let height = self.needs.volume(name).map_or(0, |v| self.needs.height(&v.path));
            std::cmp::Reverse(height)
        });
        names.into_iter().map(|name| self.delete_one(name, dry_run)).collect()
    }

    fn delete_one(&mut self, name: String, dry_run: bool) -> Result<DeleteItem> {
        interrupt::check()?;
        let Some(volume) = self.needs.volume(&name) else {
            let pool = self.pool.name.clone();
            return Ok(DeleteItem { name, pool, path: None, action: Action::NONE });
        };
        let path = volume.path.clone();
        self.check(&name, &path)?;
        if !dry_run {
            log::step(format_args!("delete volume '{name}'"));
            match volume.handle.delete(0) {
                Err(error) if is_gone(&error) => {}
                done => done.context(format_args!("delete volume '{name}'"))?,
            }
            secret::forget_with(self.libvirt, &name, &path)?;
        }
        self.needs.forget(&path);
        let path = Some(path.display().to_string());
        Ok(DeleteItem { name, pool: self.pool.name.clone(), path, action: Action("delete") })
    }

    fn check(&self, name: &str, path: &Path) -> Result<()> {
        let needed = self.needs.of(path);
        if !needed.is_empty() {
            return Err(Error::conflict(format!(
                "volume '{name}' is needed by {}",
                needed.join(", ")
            ))
            .hint("delete those first; tdx-pool volumes shows what needs what"));
        }
        if let Some(host) = self.host
            && inflight::is_in_flight(host, name)?
        {
            return Err(Error::conflict(format!(
                "volume '{name}' is being made by another process"
            )));
        }
        Ok(())
    }
}
