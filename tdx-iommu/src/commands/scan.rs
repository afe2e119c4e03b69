//! `tdx-iommu scan`: PCI devices, and what keeps each from being given to a guest.

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

/// Arguments of `scan`.
#[derive(Debug, Args)]
pub struct ScanArgs {
    /// Only these devices; - for items with a bdf on standard input
    #[arg(value_name = "BDF")]
    devices: Vec<DeviceArg>,
    #[command(flatten)]
    filter: Filter,
}

/// Shows the devices that were named, or all, that the filters let through.
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
