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

/// Arguments of `ensure`.
#[derive(Debug, Args)]
pub struct EnsureArgs {
    #[command(flatten)]
    pool: PoolArgs,
    /// The pool's folder [default: /var/lib/libvirt/images]
    #[arg(long, value_name = "DIR")]
    path: Option<PathBuf>,
    /// The kind of pool
    #[arg(long, value_enum, default_value = "dir")]
    r#type: Kind,
    #[command(flatten)]
    change: Change,
}

/// The kinds of pool that can be made here; any other can be used once it exists.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Kind {
    /// A folder
    Dir,
}

/// Creates and starts the pool, as far as that is not done.
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
