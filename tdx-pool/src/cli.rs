//! The command line. Types only: each verb's own arguments stand beside the verb.

use clap::{Parser, Subcommand};
use common::Result;
use common::cli::config::Config;
use common::cli::{Context, Globals, Tool};
use common::document::Item;
use common::document::output::Outcome;
use common::libvirt::{ConnectArgs, Libvirt};

use crate::commands::{cleanup, delete, ensure, import, info, list, volumes};
use crate::pool::item::PoolItem;
use crate::volume::survey::VolumeItem;

/// The storage pool of TDX guests: make it, import base images, show it, clean orphans
#[derive(Debug, Parser)]
#[command(name = "tdx-pool", version, after_help = EXAMPLES)]
pub struct Cli {
    #[command(flatten)]
    globals: Globals,
    #[command(flatten)]
    connect: ConnectArgs,
    #[command(subcommand)]
    verb: Verb,
}

const EXAMPLES: &str = "Examples:
  tdx-pool ensure
  tdx-pool import guest.qcow2 | tdx-td new --base -
  tdx-pool --host epyc1 info
  tdx-pool volumes --json | jq '.items[] | select(.role == \"overlay\")'
  tdx-pool cleanup --dry-run";

#[derive(Debug, Subcommand)]
enum Verb {
    /// Make the pool and start it, if it is not there yet
    Ensure(ensure::EnsureArgs),
    /// Show the pool
    Info(info::InfoArgs),
    /// Show all pools
    List(list::ListArgs),
    /// Show the pool's volumes: role, backing chain, which domains use them
    Volumes(volumes::VolumesArgs),
    /// Copy disk images into the pool as base images
    Import(import::ImportArgs),
    /// Delete volumes that nothing needs
    Delete(delete::DeleteArgs),
    /// Delete our leftovers: overlays, seeds and half-imported images that nothing needs
    Cleanup(cleanup::CleanupArgs),
}

impl Tool for Cli {
    const NAME: &'static str = "tdx-pool";

    fn globals(&self) -> &Globals {
        &self.globals
    }

    fn has_metrics(&self) -> bool {
        matches!(self.verb, Verb::Info(_))
    }

    fn columns(&self) -> &'static [&'static str] {
        match &self.verb {
            Verb::Ensure(_) => ensure::EnsureItem::COLUMNS,
            Verb::Info(_) | Verb::List(_) => PoolItem::COLUMNS,
            Verb::Volumes(_) => VolumeItem::COLUMNS,
            Verb::Import(_) => import::ImportItem::COLUMNS,
            Verb::Delete(_) => delete::DeleteItem::COLUMNS,
            Verb::Cleanup(_) => cleanup::CleanupItem::COLUMNS,
        }
    }

    fn run(self, context: &Context) -> Result<Outcome> {
        let config = Config::load(&context.host)?;
        let target = self.connect.target(&context.host, &config)?;
        let libvirt = || Libvirt::open_for(context, &target);
        match self.verb {
            Verb::Ensure(args) => ensure::run(&libvirt()?, &config, args),
            Verb::Info(args) => info::run(&libvirt()?, &config, args),
            Verb::List(args) => list::run(&libvirt()?, args),
            Verb::Volumes(args) => volumes::run(&libvirt()?, &config, args),
            Verb::Import(args) => import::run(context, libvirt, &config, args),
            Verb::Delete(args) => delete::run(context, libvirt, &config, args),
            Verb::Cleanup(args) => cleanup::run(context, &libvirt()?, &config, args),
        }
    }
}
