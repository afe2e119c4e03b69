//! `tdx-attest verify`: not written yet.

use clap::Args;
use common::cli::Context;
use common::document::output::Outcome;
use common::{Error, Result};

/// Arguments of `verify`.
#[derive(Debug, Args)]
pub struct VerifyArgs {}

/// Not written yet.
pub fn run(_: &Context, _: VerifyArgs) -> Result<Outcome> {
    Err(Error::unsupported("not written yet"))
}
