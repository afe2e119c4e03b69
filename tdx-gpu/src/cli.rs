//! The command line. Types only: each verb's own arguments stand beside the verb.

use clap::{Parser, Subcommand};
use common::Result;
use common::cli::{Context, Globals, Tool};
use common::document::Item;
use common::document::output::Outcome;

use crate::commands::{bind, cc, check, hostdev, list, unbind};
use crate::vfio::candidates;

/// GPUs and other PCI devices for guests: bind them to VFIO, give them back, set their mode
#[derive(Debug, Parser)]
#[command(name = "tdx-gpu", version, after_help = EXAMPLES)]
pub struct Cli {
    #[command(flatten)]
    globals: Globals,
    #[command(subcommand)]
    verb: Verb,
}

const EXAMPLES: &str = "Examples:
  tdx-gpu list
  tdx-gpu check 17:00.0 && tdx-gpu bind 17:00.0 --memory 64G
  tdx-iommu scan --vendor 10de --class 03 | tdx-gpu bind -
  tdx-gpu hostdev 17:00.0 --xml | virsh attach-device vm /dev/stdin
  tdx-gpu unbind --all";

#[derive(Debug, Subcommand)]
enum Verb {
    /// Show GPUs, switches between them, and whatever VFIO has
    List(list::ListArgs),
    /// Judge whether devices can be given to a guest now: exit 0 for yes, 10 for no
    Check(check::CheckArgs),
    /// Take devices, all functions of their slots, from the host's drivers for VFIO
    Bind(bind::BindArgs),
    /// Give devices back to the drivers they were taken from
    Unbind(unbind::UnbindArgs),
    /// Show or set the confidential-computing mode of NVIDIA GPUs
    Cc(cc::CcArgs),
    /// Write the XML by which libvirt gives devices to a guest
    Hostdev(hostdev::HostdevArgs),
}

impl Tool for Cli {
    const NAME: &'static str = "tdx-gpu";

    fn globals(&self) -> &Globals {
        &self.globals
    }

    fn columns(&self) -> &'static [&'static str] {
        match &self.verb {
            Verb::List(_) => list::GpuItem::COLUMNS,
            Verb::Check(_) => check::GpuCheckItem::COLUMNS,
            Verb::Bind(_) => candidates::BindItem::COLUMNS,
            Verb::Unbind(_) => unbind::UnbindItem::COLUMNS,
            Verb::Cc(_) => cc::CcItem::COLUMNS,
            Verb::Hostdev(_) => hostdev::HostdevItem::COLUMNS,
        }
    }

    fn run(self, context: &Context) -> Result<Outcome> {
        match self.verb {
            Verb::List(args) => list::run(context, args),
            Verb::Check(args) => check::run(context, args),
            Verb::Bind(args) => bind::run(context, args),
            Verb::Unbind(args) => unbind::run(context, args),
            Verb::Cc(args) => cc::run(context, args),
            Verb::Hostdev(args) => hostdev::run(context, args),
        }
    }
}
