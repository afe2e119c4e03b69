//! `tdx-iommu scan`: shows PCI devices and their blockers.

use clap::Args;
use common::Result;
use common::document::Document;
use common::document::output::Outcome;
use common::system::sysroot::Host;

use crate::commands::filter::Filter;
use crate::inventory::Inventory;
use crate::inventory::device::Device;
use crate::inventory::named_devices;
use crate::inventory::named_devices::DeviceArg;
use crate::judge::device_item::device_items;

const EXAMPLES: &str = "Examples:
  tdx-iommu scan --vendor 10de --class 03
  tdx-iommu scan 17:00.0 --json
  tdx-iommu scan --free --format name";

/// Arguments of `scan`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct ScanArgs {
    /// PCI addresses of the devices to show; - reads the JSON output of tdx-gpu list or tdx-iommu scan from
    /// standard input [default: all]
    #[arg(value_name = "BDF")]
    devices: Vec<DeviceArg>,
    #[command(flatten)]
    filter: Filter,
}

/// Shows the named devices, or all devices, that pass the filters.
pub fn run(host: &Host, args: ScanArgs) -> Result<Outcome> {
    let requested = named_devices::read(&args.devices)?;
    let inventory = Inventory::read(host)?;
    requested.expect_same(host, &inventory)?;
    let chosen: Vec<&Device> = if args.devices.is_empty() {
        inventory.devices.values().collect()
    } else {
        requested.devices.iter().map(|&bdf| inventory.device(bdf)).collect::<Result<_>>()?
    };
    let chosen = chosen.into_iter().filter(|device| args.filter.lets_through(device));
    let items = device_items(host, &inventory, chosen)?;
    let warnings = requested.warnings.into_iter().chain(inventory.warnings());
    Ok(Document::new("tdx.iommu.devices", items).warnings(warnings).into())
}
