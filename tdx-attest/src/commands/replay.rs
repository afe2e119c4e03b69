//! `tdx-attest replay`: not written yet.

use clap::Args;
use common::cli::Context;
use common::document::output::Outcome;
use common::{Error, Result};

/// Arguments of `replay`.
#[derive(Debug, Args)]
pub struct ReplayArgs {}

/// Not written yet.
pub fn run(_: &Context, _: ReplayArgs) -> Result<Outcome> {
    Err(Error::unsupported("not written yet"))
}
