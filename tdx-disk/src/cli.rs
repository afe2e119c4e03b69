//! The command line. Types only: each verb's own arguments stand beside the verb.

use clap::{Parser, Subcommand};
use common::Result;
use common::cli::{Context, Globals, Tool};
use common::config::Config;
use common::libvirt::ConnectArgs;
use common::output::Outcome;

use crate::{check, connection, list};

/// Whole disks for guests: judge whether one is free, attach it hot, detach it honestly
#[derive(Debug, Parser)]
#[command(name = "tdx-disk", version, after_help = EXAMPLES)]
pub struct Cli {
    #[command(flatten)]
    globals: Globals,
    #[command(flatten)]
    connect: ConnectArgs,
    #[command(subcommand)]
    verb: Verb,
}

const EXAMPLES: &str = "Examples:
  tdx-disk list
  tdx-disk check /dev/sdb && tdx-disk attach vm /dev/sdb";

#[derive(Debug, Subcommand)]
enum Verb {
    /// Show whole disks, and what uses each
    List(list::ListArgs),
    /// Judge whether disks can be given to a guest now: exit 0 for yes, 10 for no
    Check(check::CheckArgs),
}

impl Tool for Cli {
    const NAME: &'static str = "tdx-disk";

    fn globals(&self) -> &Globals {
        &self.globals
    }

    fn run(self, context: &Context) -> Result<Outcome> {
        let config = Config::load(&context.host)?;
        let try_open = || connection::try_open(&self.connect, &config);
        match self.verb {
            Verb::List(args) => list::run(context, try_open, args),
            Verb::Check(args) => check::run(context, try_open, args),
        }
    }
}
