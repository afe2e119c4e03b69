//! `tdx-gpu cc`: shows or sets the confidential-computing mode of NVIDIA GPUs.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::path::PathBuf;

use clap::Args;
use common::cli::{Change, Context, interrupt};
use common::document::output::Outcome;
use common::document::{Action, Document, Item};
use common::system::pci::Bdf;
use common::system::sysroot::Host;
use common::{Error, Result};
use schemars::JsonSchema;
use serde::Serialize;
use tdx_iommu::inventory::Inventory;
use tdx_iommu::inventory::device::Device;
use tdx_iommu::inventory::identity::DeviceIdentity;
use tdx_iommu::inventory::named_devices;
use tdx_iommu::inventory::named_devices::{DeviceArg, NamedDevices};

use crate::cc::gpu_tools::GpuTools;
use crate::cc::mode::{CcMode, Kind, Modes, PpcieMode};
use crate::cc::setting::{ModeChange, ModeStep, Setting};
use crate::cc::{mode, setting};
use crate::vfio::{candidates, in_use};

const EXAMPLES: &str = "Examples:
  tdx-gpu cc
  tdx-gpu cc 17:00.0 --set on --dry-run
  tdx-gpu cc 17:00.0 --set on --yes";

/// Arguments of `cc`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct CcArgs {
    /// PCI addresses of GPUs and NVSwitches; - reads the JSON output of tdx-gpu list or tdx-iommu scan from
    /// standard input [default: all]
    #[arg(value_name = "BDF")]
    devices: Vec<DeviceArg>,
    /// Set this mode and reset the devices
    #[arg(long, value_enum, requires = "devices", value_name = "MODE")]
    set: Option<Setting>,
    /// Path of NVIDIA's program nvidia_gpu_tools.py [default: looked up in PATH]
    #[arg(long, value_name = "FILE")]
    gpu_tools: Option<PathBuf>,
    #[command(flatten)]
    change: Change,
}

/// A device in a document of `tdx-gpu cc`, with its modes.
#[derive(Debug, Serialize, JsonSchema)]
pub struct CcItem {
    /// The PCI address.
    pub bdf: Bdf,
    /// The properties that identify the device.
    #[serde(flatten)]
    pub identity: DeviceIdentity,
    /// The confidential-computing mode; null for a device without this mode.
    pub cc_mode: Option<CcMode>,
    /// The protected PCIe mode; null for a device without this mode.
    pub ppcie_mode: Option<PpcieMode>,
    /// `set` or `none`.
    pub action: Action,
    /// The output of NVIDIA's program when it set the mode.
    pub output: Vec<String>,
}

impl Item for CcItem {
    const COLUMNS: &'static [&'static str] = &["BDF", "CC", "PPCIE"];

    fn key(&self) -> Cow<'_, str> {
        self.bdf.to_string().into()
    }

    fn compare(&self, other: &Self) -> Ordering {
        self.bdf.cmp(&other.bdf)
    }

    fn row(&self) -> Vec<String> {
        vec![
            self.bdf.to_string(),
            self.cc_mode.map(CcMode::as_str).unwrap_or_default().to_owned(),
            self.ppcie_mode.map(PpcieMode::as_str).unwrap_or_default().to_owned(),
        ]
    }

    fn action(&self) -> Option<Action> {
        Some(self.action)
    }
}

/// Shows the modes, or sets them with NVIDIA's program.
pub fn run(context: &Context, args: CcArgs) -> Result<Outcome> {
    let host = &context.host;
    let requested = named_devices::read(&args.devices)?;
    let mut warnings = requested.warnings.clone();
    let inventory = Inventory::read(host)?;
    requested.expect_same(host, &inventory)?;
    let named = &requested.devices;
    let dry_run = args.change.dry_run;
    let items = match args.set {
        None => {
            let devices = select_devices(&inventory, named)?.into_iter();
            devices.map(|device| current_item(host, &inventory, device)).collect()
        }
        Some(setting) => {
            let plan = plan(host, &inventory, named, setting)?;
            let names: Vec<String> = plan.iter().map(|step| step.bdf.to_string()).collect();
            let question = format!(
                "set the confidential-computing mode of {} and reset these devices?",
                names.join(", ")
            );
            context.confirm(args.change, &question)?;
            let tools = GpuTools::find(args.gpu_tools.as_deref())?;
            if dry_run {
                plan.into_iter().map(|step| preview(host, &inventory, step)).collect()
            } else {
                interrupt::guard();
                let done = set(host, &tools, &requested, setting)?;
                warnings.extend(done.iter().flat_map(|done| done.warnings.clone()));
                let item = |d: ModeChange| item(&inventory, d.bdf, d.modes, d.action, d.output);
                done.into_iter().map(item).collect()
            }
        }
    };
    let kind = if args.set.is_some() { "tdx.gpu.cc" } else { "tdx.gpu.modes" };
    Ok(Document::new(kind, items).dry_run(dry_run).warnings(warnings).into())
}

/// The steps that set the mode of these devices.
///
/// Errors: `not_found`; `conflict` for a device that has no mode, that is bound to a driver of the host, or that a
/// process has open; those of [`setting::plan`].
fn plan(
    host: &Host,
    inventory: &Inventory,
    named: &BTreeSet<Bdf>,
    setting: Setting,
) -> Result<Vec<ModeStep>> {
    let devices = select_devices(inventory, named)?;
    setting::refuse_busy(&devices)?;
    let plan = setting::plan(inventory, &devices, setting)?;
    in_use::refuse(host, inventory, plan.iter().map(|step| step.bdf))?;
    Ok(plan)
}

/// Locks the devices, so that no other command binds or unbinds them, plans again, and sets the mode.
fn set(
    host: &Host,
    tools: &GpuTools,
    requested: &NamedDevices,
    setting: Setting,
) -> Result<Vec<ModeChange>> {
    let named = &requested.devices;
    let _locks = candidates::lock_devices(host, named)?;
    let mut inventory = Inventory::read(host)?;
    inventory.wake(host, named.iter().copied());
    requested.expect_same(host, &inventory)?;
    let plan = plan(host, &inventory, named, setting)?;
    setting::apply(host, tools, plan, None)?.keep()
}

/// The named devices, or all devices that have modes.
fn select_devices<'i>(inventory: &'i Inventory, named: &BTreeSet<Bdf>) -> Result<Vec<&'i Device>> {
    if named.is_empty() {
        let has_modes = |device: &&Device| Kind::from_device(device).is_some();
        return Ok(inventory.devices.values().filter(has_modes).collect());
    }
    let mut devices = Vec::new();
    for &bdf in named {
        let device = inventory.device(bdf)?;
        if Kind::from_device(device).is_none() {
            return Err(Error::conflict(format!("{bdf} has no confidential-computing mode"))
                .hint("name an NVIDIA H100 or a newer GPU, or an NVSwitch of such GPUs"));
        }
        devices.push(device);
    }
    Ok(devices)
}

fn current_item(host: &Host, inventory: &Inventory, device: &Device) -> CcItem {
    item(inventory, device.bdf, mode::read(host, device), Action::None, Vec::new())
}

/// The item of a dry run. The modes are those that the device itself shows.
fn preview(host: &Host, inventory: &Inventory, step: ModeStep) -> CcItem {
    let now = inventory.devices.get(&step.bdf).map(|device| mode::read(host, device));
    let action = if now == Some(step.modes) { Action::None } else { Action::Set };
    item(inventory, step.bdf, step.modes, action, Vec::new())
}

fn item(
    inventory: &Inventory,
    bdf: Bdf,
    modes: Modes,
    action: Action,
    output: Vec<String>,
) -> CcItem {
    let identity = inventory.devices.get(&bdf).map(DeviceIdentity::from).unwrap_or_default();
    CcItem { bdf, identity, cc_mode: modes.cc, ppcie_mode: modes.ppcie, action, output }
}
