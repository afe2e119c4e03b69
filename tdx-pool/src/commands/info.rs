//! `tdx-pool info`: shows one storage pool.

use clap::Args;
use common::Result;
use common::cli::config::Config;
use common::document::Document;
use common::document::output::Outcome;
use common::libvirt::Libvirt;

use crate::commands::pool_args::PoolArgs;
use crate::pool::Pool;

const EXAMPLES: &str = "Examples:
  tdx-pool info
  tdx-pool info --pool default --json | jq '.items[].available_bytes'";

/// Arguments of `info`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct InfoArgs {
    #[command(flatten)]
    pool: PoolArgs,
}

/// Shows the pool after libvirt has read its directory again.
pub fn run(libvirt: &Libvirt, config: &Config, args: InfoArgs) -> Result<Outcome> {
    let mut pool = Pool::resolve(libvirt, config, args.pool.name())?;
    if pool.is_active() {
        pool.refresh()?;
        pool = Pool::read(pool.handle)?;
    }
    Ok(Document::new("tdx.pool.pools", vec![pool.item()?]).into())
}
