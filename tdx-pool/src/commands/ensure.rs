//! `tdx-pool ensure`: the pool is there, started, and comes back after a reboot.

use std::borrow::Cow;
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use common::Result;
use common::cli::config::Config;
use common::cli::{Change, interrupt};
use common::document::output::Outcome;
use common::document::{Action, Document, Item};
use common::libvirt::Libvirt;
use schemars::JsonSchema;
use serde::Serialize;

use crate::pool::PoolItem;
pub use crate::pool::plan::PoolPlan;
use crate::pool::spec::PoolArgs;

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

/// A pool and what was done to it.
#[derive(Debug, Serialize, JsonSchema)]
pub struct EnsureItem {
    #[serde(flatten)]
    pool: PoolItem,
    /// `create`, `start` (autostart included), `update` (autostart alone) or `none`.
    action: Action,
}

impl Item for EnsureItem {
    const COLUMNS: &'static [&'static str] = PoolItem::COLUMNS;
    const DROPPED: &'static [&'static str] = PoolItem::DROPPED;

    fn key(&self) -> Cow<'_, str> {
        self.pool.key()
    }

    fn row(&self) -> Vec<String> {
        self.pool.row()
    }

    fn action(&self) -> Option<Action> {
        Some(self.action)
    }
}

/// Makes and starts the pool.
pub fn run(libvirt: &Libvirt, config: &Config, args: EnsureArgs) -> Result<Outcome> {
    let Kind::Dir = args.r#type;
    interrupt::guard();
    let plan = PoolPlan::new(libvirt, config, &args.pool, args.path.as_deref())?;
    let action = plan.action()?;
    let dry_run = args.change.dry_run;
    let mut warnings: Vec<String> = plan.warnings.clone();
    warnings.extend(plan.closed_to_qemu(libvirt)?);
    let item = match dry_run {
        true => plan.item()?,
        false => plan.apply(libvirt)?.item()?,
    };
    let document = Document::new("tdx.pool.ensure", vec![EnsureItem { pool: item, action }]);
    Ok(document.dry_run(dry_run).warnings(warnings).into())
}
