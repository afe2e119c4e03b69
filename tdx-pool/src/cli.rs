//! The types of the command line. The arguments of each verb are in the module of the verb.

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

/// Manage the storage pool of guests: create it, import base images, show volumes, delete orphans
///
/// A storage pool is a directory in which libvirt manages disk images as volumes. A base image is a volume that guests
/// share and never write to. Each guest writes to an overlay: a volume that contains only the differences from its base
/// image.
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
    /// Create and start the storage pool; do nothing if it is already active
    Ensure(ensure::EnsureArgs),
    /// Show the storage pool: its state, its path and its free space
    Info(info::InfoArgs),
    /// Show all storage pools
    List(list::ListArgs),
    /// Show the volumes of the pool: their role, the images that back them, and the domains that use them
    Volumes(volumes::VolumesArgs),
    /// Copy disk images into the pool as base images
    Import(import::ImportArgs),
    /// Delete volumes that no domain and no image uses
    Delete(delete::DeleteArgs),
    /// Delete orphans: files that these tools created and that nothing uses
    ///
    /// Orphans are overlays, disks, cloud-init seeds and incomplete imports that no domain, snapshot or image uses, and
    /// that no process has open. All other unused files are listed and kept.
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
