//! `tdx-td host`: the machine that guests are to run on.

use clap::{Args, Subcommand};
use common::Result;
use common::cli::Context;
use common::libvirt::Libvirt;
use common::output::Outcome;

pub mod check;

/// Arguments of `host`.
#[derive(Debug, Args)]
pub struct HostArgs {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Judge whether guests of a kind can run here: exit 0 for yes, 10 for no
    Check(check::CheckArgs),
}

/// Runs the verb below `host` that was asked for.
///
/// libvirt is asked only where `may_ask` says that it is this machine's, or was named.
pub fn run(
    context: &Context,
    connect: impl FnOnce() -> Result<Libvirt>,
    may_ask: bool,
    args: HostArgs,
) -> Result<Outcome> {
    match args.verb {
        Verb::Check(args) => check::run(context, connect, may_ask, &args),
    }
}
