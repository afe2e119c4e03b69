//! The types of the command line. The arguments of each verb are in the module of the verb.

use clap::{Parser, Subcommand};
use common::Result;
use common::cli::{Context, Globals, Tool};
use common::document::Item;
use common::document::output::Outcome;

use crate::commands::{check, groups, resolve, scan};
use crate::judge::device_item::DeviceItem;
use crate::resolve::resolution::ResolvedItem;

/// Show PCI devices and IOMMU groups, and check which devices can be given to a guest
///
/// The IOMMU isolates the memory accesses of PCI devices. An IOMMU group is the smallest set of devices that the
/// IOMMU can isolate; the kernel gives a group to a guest only as a whole. A blocker is a reason why a device cannot be
/// given to a guest, such as a driver of the host or a mounted disk; each blocker has a code.
#[derive(Debug, Parser)]
#[command(name = "tdx-iommu", version, after_help = EXAMPLES)]
pub struct Cli {
    #[command(flatten)]
    globals: Globals,
    #[command(subcommand)]
    verb: Verb,
}

const EXAMPLES: &str = "Examples:
  tdx-iommu scan --vendor 10de --class 03
  tdx-iommu scan | jq '.items[] | select(.iommu_group==12)' | tdx-iommu check -
  tdx-iommu groups --json | jq '.items[] | select(.viable)'
  tdx-iommu check 17:00.0 && echo the device can be given to a guest
  tdx-iommu resolve --config passthrough.yaml | tdx-td hostdevs - --dry-run";

#[derive(Debug, Subcommand)]
enum Verb {
    /// Show PCI devices and their blockers
    Scan(scan::ScanArgs),
    /// Show IOMMU groups, their devices and their blockers
    Groups(groups::GroupsArgs),
    /// Check whether devices can be given to one guest together; exit status 0 for yes, 10 for no
    Check(check::CheckArgs),
    /// Find the devices that a passthrough configuration assigns to guests, with their IOMMU groups
    Resolve(resolve::ResolveArgs),
}

impl Tool for Cli {
    const NAME: &'static str = "tdx-iommu";

    fn globals(&self) -> &Globals {
        &self.globals
    }

    fn columns(&self) -> &'static [&'static str] {
        match &self.verb {
            Verb::Scan(_) => DeviceItem::COLUMNS,
            Verb::Groups(_) => groups::GroupItem::COLUMNS,
            Verb::Check(_) => check::CheckItem::COLUMNS,
            Verb::Resolve(_) => ResolvedItem::COLUMNS,
        }
    }

    fn run(self, context: &Context) -> Result<Outcome> {
        match self.verb {
            Verb::Scan(args) => scan::run(&context.host, args),
            Verb::Groups(args) => groups::run(&context.host, args),
            Verb::Check(args) => check::run(&context.host, args),
            Verb::Resolve(args) => resolve::run(&context.host, args),
        }
    }
}
