//! `tdx-gpu list`: shows GPUs, NVSwitches, and all devices that are bound to VFIO.

use std::borrow::Cow;
use std::cmp::Ordering;

use clap::Args;
use common::Result;
use common::cli::Context;
use common::code::join_codes;
use common::device_state::bound_devices;
use common::document::output::Outcome;
use common::document::{Document, Item};
use schemars::JsonSchema;
use serde::Serialize;
use tdx_iommu::inventory::Inventory;
use tdx_iommu::inventory::role::Role;
use tdx_iommu::judge::device_item::{DeviceItem, device_items};

use crate::boot::persist::BootRecords;
use crate::cc::mode;
use crate::cc::mode::{CcMode, PpcieMode};

const EXAMPLES: &str = "Examples:
  tdx-gpu list
  tdx-gpu list --json | jq '.items[] | select(.driver == \"nvidia\")' | tdx-gpu check -";

/// Arguments of `list`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct ListArgs {}

/// A device in a document of `tdx-gpu list`.
#[derive(Debug, Serialize, JsonSchema)]
pub struct GpuItem {
    #[serde(flatten)]
    device: DeviceItem,
    /// The driver that `tdx-gpu unbind` binds the device to; null when no driver is recorded.
    pub previous_driver: Option<String>,
    /// The UUID of the domain that the device was bound for; null when it was bound without a domain.
    pub domain: Option<String>,
    /// Whether the device is bound to VFIO at every boot; null when only root can read that.
    pub persistent: Option<bool>,
    /// The confidential-computing mode; null for a device without this mode.
    pub cc_mode: Option<CcMode>,
    /// The protected PCIe mode; null for a device without this mode.
    pub ppcie_mode: Option<PpcieMode>,
}

impl Item for GpuItem {
    const COLUMNS: &'static [&'static str] =
        &["BDF", "ROLE", "DRIVER", "PREVIOUS", "GROUP", "NUMA", "CC", "PPCIE", "BLOCKERS", "NAME"];
    const WRAPPED: &'static [&'static str] = &["BLOCKERS", "NAME"];
    const DROPPED: &'static [&'static str] = &["NUMA", "PREVIOUS", "GROUP", "PPCIE", "CC"];

    fn key(&self) -> Cow<'_, str> {
        self.device.key()
    }

    fn compare(&self, other: &Self) -> Ordering {
        self.device.compare(&other.device)
    }

    fn row(&self) -> Vec<String> {
        let device = &self.device;
        let number = |number: Option<u32>| number.map(|n| n.to_string()).unwrap_or_default();
        vec![
            device.bdf.to_string(),
            device.role.as_str().to_owned(),
            device.driver.clone().unwrap_or_default(),
            self.previous_driver.clone().unwrap_or_default(),
            number(device.iommu_group),
            number(device.numa_node),
            self.cc_mode.map(CcMode::as_str).unwrap_or_default().to_owned(),
            self.ppcie_mode.map(PpcieMode::as_str).unwrap_or_default().to_owned(),
            join_codes(&device.blockers),
            device.device_name.clone().unwrap_or_default(),
        ]
    }
}

/// Lists GPUs with the other functions of their slots, NVSwitches, and every device that is bound to VFIO.
pub fn run(context: &Context, _: ListArgs) -> Result<Outcome> {
    let host = &context.host;
    let inventory = Inventory::read(host)?;
    let shown = inventory.devices.values().filter(|device| {
        let gpu = matches!(
            device.role,
            Role::Gpu | Role::GpuAudio | Role::GpuUsb | Role::GpuSerial | Role::Nvswitch
        );
        gpu || device.on_vfio()
    });
    let mut warnings = inventory.warnings();
    let boot_records = BootRecords::read(host, &inventory).ok();
    let damaged = boot_records.iter().flat_map(|boot_records| &boot_records.damaged);
    warnings.extend(damaged.map(ToString::to_string));
    let devices = device_items(host, &inventory, shown)?;
    let mut items = Vec::with_capacity(devices.len());
    for device in devices {
        let record = bound_devices::load(host, device.bdf).unwrap_or_else(|error| {
            warnings.push(error.to_string());
            None
        });
        let record = record.map(|found| found.record);
        let modes = mode::read(host, &inventory.devices[&device.bdf]);
        items.push(GpuItem {
            previous_driver: record.as_ref().and_then(|record| record.driver.clone()),
            domain: record.and_then(|record| record.domain),
            persistent: boot_records.as_ref().map(|boot_records| boot_records.has(device.bdf)),
            cc_mode: modes.cc,
            ppcie_mode: modes.ppcie,
            device,
        });
    }
    Ok(Document::new("tdx.gpu.devices", items).warnings(warnings).into())
}
