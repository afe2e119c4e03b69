//! `tdx-pool list`: shows all storage pools.

use clap::Args;
use common::Result;
use common::document::Document;
use common::document::output::Outcome;
use common::libvirt::Libvirt;

use crate::pool::Pool;
use crate::pool::item::PoolItem;

const EXAMPLES: &str = "Examples:
  tdx-pool list
  for p in $(tdx-pool list --format name); do tdx-pool volumes --pool \"$p\"; done";

/// Arguments of `list`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct ListArgs {}

/// Shows every pool, active or inactive.
pub fn run(libvirt: &Libvirt, _: ListArgs) -> Result<Outcome> {
    let items: Vec<PoolItem> = Pool::all(libvirt)?.iter().map(Pool::item).collect::<Result<_>>()?;
    Ok(Document::new("tdx.pool.pools", items).into())
}
