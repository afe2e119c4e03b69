//! `tdx-pool delete`: deletes volumes that nothing needs.

use std::collections::{BTreeMap, BTreeSet};

use clap::Args;
use common::cli::config::Config;
use common::cli::{Change, Context, interrupt};
use common::document::output::Outcome;
use common::document::{Action, Document, input};
use common::libvirt::Libvirt;
use common::{Error, Result, name};
use serde::Deserialize;

use crate::commands::pool_args::PoolArgs;
use crate::pool::Pool;
use crate::volume::claim::VolumeClaim;
use crate::volume::deletion::Batch;
pub use crate::volume::deletion::DeleteItem;

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

/// Deletes each volume unless a domain or another image needs it, or something has it open; images
/// before those below them. All are tried.
///
/// What was found before the question is found again after it, under a lock that keeps these tools from
/// putting anything on the volume meanwhile.
pub fn run(
    context: &Context,
    connect: impl FnOnce() -> Result<Libvirt>,
    config: &Config,
    args: DeleteArgs,
) -> Result<Outcome> {
    let requested = volumes_by_pool(args.volumes, &args.pool)?;
    let libvirt = connect()?;
    interrupt::guard();
    let dry_run = args.change.dry_run;
    let host_name = context.host_name();
    let mut failed: Option<Error> = None;
    let mut batches: Vec<Batch> = Vec::new();
    for (pool, claimed) in requested {
        let claimed = matching(claimed, None, host_name.as_deref(), &mut failed);
        if claimed.is_empty() {
            continue;
        }
        let pool = Pool::resolve(&libvirt, config, pool.as_deref())?;
        let claimed = matching(claimed, Some(&pool), host_name.as_deref(), &mut failed);
        let names = claimed.into_keys().collect();
        batches.push(Batch::plan(&context.host, &libvirt, pool, names)?);
    }
    let found: Vec<&str> = batches.iter().flat_map(Batch::found).collect();
    if !found.is_empty() {
        context.confirm(args.change, &format!("delete {}?", found.join(", ")))?;
    }
    let mut items = Vec::new();
    let mut warnings = BTreeSet::new();
    for batch in batches {
        let outcome = if dry_run { batch.preview() } else { batch.delete() };
        warnings.extend(outcome.warnings);
        for item in outcome.items {
            match item {
                Ok(item) => items.push(item),
                Err(error) => failed = Some(failed.unwrap_or(error)),
            }
        }
    }
    if let Some(error) = failed {
        let deleted = items.iter().filter(|item| item.action != Action::None && !dry_run);
        return Err(error.applied(deleted.map(|item| format!("deleted volume '{}'", item.name))));
    }
    Ok(Document::new("tdx.pool.delete", items).dry_run(dry_run).warnings(warnings).into())
}

/// An item says which pool it is in: a name alone could hit another pool's volume.
#[derive(Deserialize)]
struct NamedVolume {
    #[serde(deserialize_with = "name::deserialize")]
    name: String,
    #[serde(default, deserialize_with = "name::deserialize_option")]
    pool: Option<String>,
    #[serde(flatten)]
    claim: VolumeClaim,
}

/// Volumes by name, with what the items of standard input say of each.
type Claimed = BTreeMap<String, Vec<VolumeClaim>>;

/// The volumes that are to be deleted, by pool. The pool that the configuration names, or the default one, is
/// none.
fn volumes_by_pool(
    words: Vec<String>,
    args: &PoolArgs,
) -> Result<BTreeMap<Option<String>, Claimed>> {
    let mut requested: BTreeMap<_, Claimed> = BTreeMap::new();
    if !words.iter().any(|word| word == input::STDIN) {
        words.iter().try_for_each(|word| name::check("volume", word))?;
        let named = words.into_iter().map(|name| (name, Vec::new()));
        requested.insert(args.pool.clone(), named.collect());
        return Ok(requested);
    }
    if words.len() > 1 {
        return Err(Error::usage("- stands alone: name volumes or read them from standard input"));
    }
    let kinds = ["tdx.pool.volumes", "tdx.pool.import", "tdx.pool.cleanup", "tdx.pool.delete"];
    for NamedVolume { name, pool, claim } in input::items(&kinds, "volumes with a name")? {
        if let (Some(asked), Some(there)) = (&args.pool, &pool)
            && asked != there
        {
            return Err(Error::usage(format!(
                "volume '{name}' is in pool '{there}', but --pool says '{asked}'"
            )));
        }
        let volumes = requested.entry(pool.or_else(|| args.pool.clone())).or_default();
        volumes.entry(name).or_default().push(claim);
    }
    Ok(requested)
}

/// The volumes that are what the items of standard input say. The first one that is not becomes the failure.
fn matching(
    mut claimed: Claimed,
    pool: Option<&Pool>,
    host_name: Option<&str>,
    failed: &mut Option<Error>,
) -> Claimed {
    claimed.retain(|name, claims| {
        let same = claims.iter().try_for_each(|claim| claim.expect(name, pool, host_name));
        match same {
            Ok(()) => true,
            Err(error) => {
                failed.get_or_insert(error);
                false
            }
        }
    });
    claimed
}
