//! `tdx-pool volumes`: shows the volumes of a pool.

use clap::Args;
use common::Result;
use common::cli::config::Config;
use common::document::Document;
use common::document::output::Outcome;
use common::libvirt::Libvirt;

use crate::commands::pool_args::PoolArgs;
use crate::pool::Pool;
use crate::volume::survey::Survey;

const EXAMPLES: &str = "Examples:
  tdx-pool volumes
  tdx-pool volumes --json | jq '.items[] | select(.role == \"overlay\")'";

/// Arguments of `volumes`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct VolumesArgs {
    #[command(flatten)]
    pool: PoolArgs,
}

/// Shows every volume with its role, its image chain and the domains that need it.
pub fn run(libvirt: &Libvirt, config: &Config, args: VolumesArgs) -> Result<Outcome> {
    let pool = Pool::resolve(libvirt, config, args.pool.name())?;
    let items = Survey::take(libvirt, &pool)?.items(&pool, libvirt.is_local())?;
    Ok(Document::new("tdx.pool.volumes", items).into())
}
