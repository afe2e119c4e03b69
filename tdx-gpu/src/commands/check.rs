//! `tdx-gpu check`: checks whether devices can be given to a guest now, and shows their modes.

use std::borrow::Cow;
use std::cmp::Ordering;

use clap::Args;
use common::Result;
use common::cli::Context;
use common::document::output::Outcome;
use common::document::{Document, Item};
use common::units::{self, Size};
use schemars::JsonSchema;
use serde::Serialize;
use tdx_iommu::commands::check;
use tdx_iommu::commands::check::CheckItem;
use tdx_iommu::inventory::Inventory;
use tdx_iommu::inventory::named_devices;
use tdx_iommu::inventory::named_devices::DeviceArg;

use crate::cc::mode;
use crate::cc::mode::{CcMode, PpcieMode};
use crate::vfio::dma_entry_limit;
use crate::vfio::driver::{Sysfs, Variants};

const EXAMPLES: &str = "Examples:
  tdx-gpu check 17:00.0
  tdx-gpu check 17:00.0 --memory 64G && tdx-gpu bind 17:00.0 --memory 64G";

/// Arguments of `check`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct CheckArgs {
    /// PCI addresses of the devices; - reads the JSON output of tdx-gpu list or tdx-iommu scan from
    /// standard input
    #[arg(value_name = "BDF", required = true)]
    devices: Vec<DeviceArg>,
    /// Memory size of the guest [default: the memory size of the host]
    #[arg(long, value_name = "SIZE", value_parser = units::size_in(units::MEMORY))]
    memory: Option<Size>,
}

/// A device in a document of `tdx-gpu check`.
#[derive(Debug, Serialize, JsonSchema)]
pub struct GpuCheckItem {
    #[serde(flatten)]
    check: CheckItem,
    /// The VFIO driver that `tdx-gpu bind` would bind the device to.
    pub vfio_driver: String,
    /// The confidential-computing mode; null for a device without this mode.
    pub cc_mode: Option<CcMode>,
    /// The protected PCIe mode; null for a device without this mode.
    pub ppcie_mode: Option<PpcieMode>,
    /// The current limit on the number of DMA mappings of VFIO; null while the kernel module is not loaded.
    pub dma_entry_limit: Option<u64>,
    /// The number of DMA mappings that the guest needs. `tdx-gpu bind` raises the limit to this number.
    pub dma_entries_needed: u64,
}

impl Item for GpuCheckItem {
    const COLUMNS: &'static [&'static str] = CheckItem::COLUMNS;
    const WRAPPED: &'static [&'static str] = &["BLOCKERS", "WHY"];
    const DROPPED: &'static [&'static str] = &["DRIVER", "GROUP", "ROLE"];

    fn key(&self) -> Cow<'_, str> {
        self.check.key()
    }

    fn compare(&self, other: &Self) -> Ordering {
        self.check.compare(&other.check)
    }

    fn row(&self) -> Vec<String> {
        self.check.row()
    }
}

/// Checks the devices, and the other functions of their slots, as one request.
pub fn run(context: &Context, args: CheckArgs) -> Result<Outcome> {
    let host = &context.host;
    let requested = named_devices::read(&args.devices)?;
    let inventory = Inventory::read(host)?;
    requested.expect_same(host, &inventory)?;
    let (checks, unseen) = check::judge(host, &inventory, &requested.devices)?;
    let mut warnings = requested.warnings;
    warnings.extend(inventory.problems.iter().cloned().chain(unseen));
    let memory = args.memory.map_or_else(|| dma_entry_limit::host_memory(host), Ok)?;
    let dma_entry_limit = dma_entry_limit::current(host)?;
    let variants = Variants::read(host);
    let viable = checks.iter().all(|item| item.viable);
    let item = |check: CheckItem| {
        let modes = mode::read(host, &inventory.devices[&check.bdf]);
        GpuCheckItem {
            vfio_driver: variants.driver(Sysfs::new(host, check.bdf)),
            cc_mode: modes.cc,
            ppcie_mode: modes.ppcie,
            dma_entry_limit,
            dma_entries_needed: dma_entry_limit::needed(memory),
            check,
        }
    };
    let items: Vec<GpuCheckItem> = checks.into_iter().map(item).collect();
    Ok(Outcome::answer(Document::new("tdx.gpu.check", items).warnings(warnings), viable))
}
