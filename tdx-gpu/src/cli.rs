//! The types of the command line. The arguments of each verb are in the module of the verb.

use clap::{Parser, Subcommand};
use common::Result;
use common::cli::{Context, Globals, Tool};
use common::document::Item;
use common::document::output::Outcome;

use crate::commands::{bind, cc, check, hostdev, list, unbind};
use crate::vfio::candidates;

/// Bind GPUs and other PCI devices to VFIO and release them, and set the confidential-computing mode of GPUs
///
/// VFIO is the part of the kernel that gives PCI devices to guests. A device is bound to one driver at a time: to a
/// driver of the host, or to a VFIO driver such as vfio-pci. `bind` records the driver of the host, and `unbind` binds
/// the device to that driver again.
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
    /// Show GPUs, NVSwitches, and all devices that are bound to VFIO
    List(list::ListArgs),
    /// Check whether devices can be given to a guest now; exit status 0 for yes, 10 for no
    Check(check::CheckArgs),
    /// Bind devices to VFIO, together with all functions of their slots
    Bind(bind::BindArgs),
    /// Unbind devices from VFIO and bind them to their former drivers
    Unbind(unbind::UnbindArgs),
    /// Show or set the confidential-computing mode of NVIDIA GPUs
    Cc(cc::CcArgs),
    /// Print the `hostdev` XML that gives devices to a libvirt guest
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
