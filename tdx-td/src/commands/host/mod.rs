//! `tdx-td host`: verbs on the machine that runs guests.

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
    /// Check whether guests of a kind can run on this host: exit status 0 for yes, 10 for no
    Check(check::CheckArgs),
    /// Change settings of this host to the values that a scenario recommends, and record the previous
    /// values
    Tune(tune::TuneArgs),
    /// Restore the settings of this host that tdx-td host tune recorded
    Restore(restore::RestoreArgs),
}

impl HostArgs {
    /// Returns the column titles of the verb's table.
    pub fn columns(&self) -> &'static [&'static str] {
        match &self.verb {
            Verb::Check(_) => CheckItem::COLUMNS,
            Verb::Tune(_) => TuneItem::COLUMNS,
            Verb::Restore(_) => restore::RestoreItem::COLUMNS,
        }
    }
}

/// Runs a verb of `host`.
///
/// libvirt is queried only if `may_ask` is true: without `--sysroot`, or with `--connect` or `--host`. `uri` is
/// the URI of the connection, `None` for libvirt's default.
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
