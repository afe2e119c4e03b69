//! `tdx-attest measure`: not written yet.

use clap::Args;
use common::cli::Context;
use common::document::output::Outcome;
use common::{Error, Result};

/// Arguments of `measure`.
#[derive(Debug, Args)]
pub struct MeasureArgs {}

/// Not written yet.
pub fn run(_: &Context, _: MeasureArgs) -> Result<Outcome> {
    Err(Error::unsupported("not written yet"))
}
