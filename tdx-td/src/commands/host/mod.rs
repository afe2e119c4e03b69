//! `tdx-td host`: the machine that guests are to run on.

use clap::{Args, Subcommand};
use common::Result;
use common::cli::Context;
use common::cli::config::Config;
use common::document::Item;
use common::document::output::Outcome;
use common::libvirt::Libvirt;

use crate::host::check::item::CheckItem;
use crate::host::tuning::item::TuneItem;

pub mod check;
pub mod restore;
pub mod tune;

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
    /// Set this host to what a scenario recommends, remembering what it was
    Tune(tune::TuneArgs),
    /// Set this host back to what it was before it was tuned
    Restore(restore::RestoreArgs),
}

impl HostArgs {
    /// Titles of the columns that a table of the verb's items has.
    pub fn columns(&self) -> &'static [&'static str] {
        match &self.verb {
            Verb::Check(_) => CheckItem::COLUMNS,
            Verb::Tune(_) => TuneItem::COLUMNS,
            Verb::Restore(_) => restore::RestoreItem::COLUMNS,
        }
    }
}

/// Runs the verb below `host` that was asked for.
///
/// libvirt is asked only where `may_ask` says that it is this machine's, or was named; `uri` is which one that
/// is, libvirt's default without it.
pub fn run(
    context: &Context,
    connect: impl FnOnce() -> Result<Libvirt>,
    (may_ask, uri): (bool, Option<&str>),
    config: &Config,
    args: HostArgs,
) -> Result<Outcome> {
    match args.verb {
        Verb::Check(args) => check::run(context, connect, may_ask, &args),
        Verb::Tune(args) => tune::run(context, connect, (may_ask, uri), config, args),
        Verb::Restore(args) => restore::run(context, uri, args),
    }
}
