//! `tdx-attest collateral`: not written yet.

use clap::Args;
use common::cli::Context;
use common::document::output::Outcome;
use common::{Error, Result};

/// Arguments of `collateral`.
#[derive(Debug, Args)]
pub struct CollateralArgs {}

/// Not written yet.
pub fn run(_: &Context, _: CollateralArgs) -> Result<Outcome> {
    Err(Error::unsupported("not written yet"))
}
