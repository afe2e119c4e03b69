//! `tdx-pool list`: all pools.

use clap::Args;
use common::Result;
use common::document::Document;
use common::libvirt::Libvirt;
use common::output::Outcome;

use crate::pool::{Pool, PoolItem};

/// Arguments of `list`.
#[derive(Debug, Args)]
pub struct ListArgs {}

/// Shows every pool, started or not.
pub fn run(libvirt: &Libvirt, _: ListArgs) -> Result<Outcome> {
    let items: Vec<PoolItem> = Pool::all(libvirt)?.iter().map(Pool::item).collect::<Result<_>>()?;
    Ok(Document::new("tdx.pool.pools", items).into())
}
