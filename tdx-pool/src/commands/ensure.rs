//! `tdx-pool ensure`: creates and starts the pool, and sets it to start at boot.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use common::Result;
use common::cli::config::Config;
use common::cli::{Change, interrupt};
use common::document::Document;
use common::document::output::Outcome;
use common::libvirt::Libvirt;

use crate::commands::pool_args::PoolArgs;
pub use crate::pool::item::EnsureItem;
use crate::pool::plan::PoolPlan;

const EXAMPLES: &str = "Examples:
  tdx-pool ensure
  tdx-pool ensure --pool guests --path /srv/guests";

/// Arguments of `ensure`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct EnsureArgs {
    #[command(flatten)]
    pool: PoolArgs,
    /// Directory of the pool [default: /var/lib/libvirt/images]
    #[arg(long, value_name = "DIR")]
    path: Option<PathBuf>,
    /// Type of the pool
    #[arg(long, value_enum, default_value = "dir")]
    r#type: Kind,
    #[command(flatten)]
    change: Change,
}

/// The types of pool that `ensure` can create. The other verbs also work on existing pools of other types.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Kind {
    /// A directory
    Dir,
}

/// Creates and starts the pool, unless that was done before.
pub fn run(libvirt: &Libvirt, config: &Config, args: EnsureArgs) -> Result<Outcome> {
    let Kind::Dir = args.r#type;
    interrupt::guard();
    let plan = PoolPlan::new(libvirt, config, args.pool.name(), args.path.as_deref())?;
    let action = plan.action()?;
    let dry_run = args.change.dry_run;
    let mut warnings: Vec<String> = plan.warnings.clone();
    warnings.extend(plan.closed_to_qemu(libvirt)?);
    let item = if dry_run { plan.item()? } else { plan.apply(libvirt)?.item()? };
    let document = Document::new("tdx.pool.ensure", vec![EnsureItem::new(item, action)]);
    Ok(document.dry_run(dry_run).warnings(warnings).into())
}
