//! The types of the command line. The arguments of each verb are in the module of the verb.

use clap::{Parser, Subcommand};
use common::Result;
use common::cli::config::Config;
use common::cli::{Context, Globals, Tool};
use common::document::Item;
use common::document::output::Outcome;
use common::libvirt::ConnectArgs;

use crate::attach::item::AttachItem;
use crate::commands::{attach, attached, check, connection, detach, list};

/// Attach whole host disks to guests, after a check that nothing else uses the disks, and detach host disks from guests
///
/// A host disk is a block device of the host, such as /dev/sdb. A guest disk is a disk as the guest sees it; its name
/// in the domain's definition, such as vdb, is called the guest target.
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
  tdx-disk check /dev/sdb && tdx-disk attach vm /dev/sdb
  tdx-disk list --json | jq '.items[] | select(.available and .model==\"X\")' | tdx-disk attach vm -
  tdx-disk attached vm
  tdx-disk detach vm vdb";

#[derive(Debug, Subcommand)]
enum Verb {
    /// Show whole disks and their users
    List(list::ListArgs),
    /// Check whether disks can be given to a guest now; exit status 0 for yes, 10 for no
    Check(check::CheckArgs),
    /// Show the host disks that are attached to domains
    Attached(attached::AttachedArgs),
    /// Attach a host disk to a running guest, or add the disk to the persistent definition of a domain
    Attach(attach::AttachArgs),
    /// Detach a disk from a guest, and wait until the guest has released it
    Detach(detach::DetachArgs),
}

impl Tool for Cli {
    const NAME: &'static str = "tdx-disk";

    fn globals(&self) -> &Globals {
        &self.globals
    }

    fn columns(&self) -> &'static [&'static str] {
        match &self.verb {
            Verb::List(_) => list::DiskItem::COLUMNS,
            Verb::Check(_) => check::CheckItem::COLUMNS,
            Verb::Attached(_) => attached::AttachedItem::COLUMNS,
            Verb::Attach(_) => AttachItem::COLUMNS,
            Verb::Detach(_) => detach::DetachItem::COLUMNS,
        }
    }

    fn run(self, context: &Context) -> Result<Outcome> {
        let config = Config::load(&context.host)?;
        let target = self.connect.target(&context.host, &config)?;
        let open = || connection::open(&target);
        let try_open = || connection::try_open(&context.host, &target);
        match self.verb {
            Verb::List(args) => list::run(context, try_open, args),
            Verb::Check(args) => check::run(context, try_open, args),
            Verb::Attached(args) => attached::run(context, open, args),
            Verb::Attach(args) => attach::run(context, open, args),
            Verb::Detach(args) => detach::run(context, open, args),
        }
    }
}
