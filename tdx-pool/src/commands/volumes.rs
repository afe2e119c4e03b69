//! `tdx-pool volumes`: what is in the pool.

use clap::Args;
use common::Result;
use common::cli::config::Config;
use common::document::Document;
use common::document::output::Outcome;
use common::libvirt::Libvirt;

use crate::pool::Pool;
use crate::pool::spec::PoolArgs;
use crate::volume::Survey;

/// Arguments of `volumes`.
#[derive(Debug, Args)]
pub struct VolumesArgs {
    #[command(flatten)]
    pool: PoolArgs,
}

/// Shows every volume with its role, its backing chain and the domains that need it.
pub fn run(libvirt: &Libvirt, config: &Config, args: VolumesArgs) -> Result<Outcome> {
    let pool = Pool::resolve(libvirt, config, &args.pool)?;
    let items = Survey::take(libvirt, &pool)?.items(&pool, libvirt.is_local())?;
    Ok(Document::new("tdx.pool.volumes", items).into())
}
