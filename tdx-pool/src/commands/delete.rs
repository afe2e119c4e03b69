//! `tdx-pool delete`: deletes volumes that nothing uses.

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

const EXAMPLES: &str = "Examples:
  tdx-pool delete old.qcow2 --yes
  tdx-pool volumes --json | jq '.items[] | select(.users == [])' | tdx-pool delete - --dry-run";

/// Arguments of `delete`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct DeleteArgs {
    /// Names of the volumes to delete; - reads the JSON output of tdx-pool volumes from standard input
    #[arg(required = true, value_name = "VOLUME")]
    volumes: Vec<String>,
    #[command(flatten)]
    pool: PoolArgs,
    #[command(flatten)]
    change: Change,
}

/// Deletes each volume that no domain and no image needs and that no process has open. Images are deleted before the
/// images that back them. A failure does not stop the others.
///
/// After the question, everything is checked again, under a lock that keeps these tools from beginning to use a volume.
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

/// An item on standard input. It names its pool, because another pool may have a volume of the same name.
#[derive(Deserialize)]
struct NamedVolume {
    #[serde(deserialize_with = "name::deserialize")]
    name: String,
    #[serde(default, deserialize_with = "name::deserialize_option")]
    pool: Option<String>,
    #[serde(flatten)]
    claim: VolumeClaim,
}

/// Volumes by name, with the claims of the items on standard input about each.
type Claimed = BTreeMap<String, Vec<VolumeClaim>>;

/// The volumes to delete, by the name of their pool; none stands for the configured or default pool.
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
        return Err(Error::usage(
            "'-' cannot be combined with names: name volumes or read them from standard input",
        ));
    }
    let kinds = ["tdx.pool.volumes", "tdx.pool.import", "tdx.pool.cleanup", "tdx.pool.delete"];
    for NamedVolume { name, pool, claim } in
        input::items(&kinds, "JSON items of volumes, each with the key 'name'")?
    {
        if let (Some(asked), Some(there)) = (&args.pool, &pool)
            && asked != there
        {
            return Err(Error::usage(format!(
                "volume '{name}' on standard input is in pool '{there}', but --pool names '{asked}'"
            )));
        }
        let volumes = requested.entry(pool.or_else(|| args.pool.clone())).or_default();
        volumes.entry(name).or_default().push(claim);
    }
    Ok(requested)
}

/// Keeps the volumes that match the items on standard input. The first mismatch is stored in `failed`.
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
