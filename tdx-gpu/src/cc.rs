//! `tdx-gpu cc`: the confidential-computing mode of NVIDIA GPUs.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use common::cli::{Change, Context};
use common::document::{Action, Document, Item};
use common::host::Host;
use common::output::Outcome;
use common::pci::Bdf;
use common::{Error, Result, interrupt};
use schemars::JsonSchema;
use serde::Serialize;
use tdx_iommu::device::Device;
use tdx_iommu::inventory::Inventory;
use tdx_iommu::request::{self, Named};

use crate::gpu_tools::GpuTools;
use crate::mode::{self, CcMode, Kind, Modes, PpcieMode};

/// Arguments of `cc`.
#[derive(Debug, Args)]
pub struct CcArgs {
    /// GPUs and NVSwitches; - for items with a bdf on standard input [default: all]
    #[arg(value_name = "BDF")]
    devices: Vec<Named>,
    /// Set this mode, which resets the devices
    #[arg(long, value_enum, requires = "devices", value_name = "MODE")]
    set: Option<Setting>,
    /// NVIDIA's nvidia_gpu_tools.py [default: the one on PATH]
    #[arg(long, value_name = "FILE")]
    gpu_tools: Option<PathBuf>,
    #[command(flatten)]
    change: Change,
}

/// A mode to set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Setting {
    /// No protection
    Off,
    /// Each GPU by itself in confidential-computing mode
    On,
    /// Confidential-computing mode, open to debugging
    Devtools,
    /// Protected PCIe: every GPU and NVSwitch of the baseboard, all for one guest
    Ppcie,
}

/// A device and its mode.
#[derive(Debug, Serialize, JsonSchema)]
pub struct CcItem {
    /// Address.
    pub bdf: Bdf,
    /// Confidential computing; null where there is no such thing.
    pub cc_mode: Option<CcMode>,
    /// Protected PCIe; null where there is no such thing.
    pub ppcie_mode: Option<PpcieMode>,
    /// `set`, or `none`.
    pub action: Action,
    /// What NVIDIA's program said while it set the mode.
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

/// Shows the modes, or sets them by NVIDIA's program.
pub fn run(context: &Context, args: CcArgs) -> Result<Outcome> {
    let host = &context.host;
    let (named, warnings) = request::resolve(&args.devices)?;
    let inventory = Inventory::read(host)?;
    let devices = chosen(&inventory, &named)?;
    let dry_run = args.change.dry_run;
    let items = match args.set {
        None => devices.iter().map(|device| shown(host, device)).collect(),
        Some(setting) => {
            let plan = plan(&inventory, &devices, setting)?;
            let names: Vec<String> = plan.iter().map(|(bdf, _)| bdf.to_string()).collect();
            let question = format!("set the mode of, and reset, {}?", names.join(", "));
            context.confirm(args.change, &question)?;
            let tools = GpuTools::find(args.gpu_tools.as_deref())?;
            match dry_run {
                true => plan.iter().map(imagined).collect(),
                false => {
                    interrupt::guard();
                    apply(&tools, &plan)?
                }
            }
        }
    };
    let kind = if args.set.is_some() { "tdx.gpu.cc" } else { "tdx.gpu.modes" };
    Ok(Document::new(kind, items).dry_run(dry_run).warnings(warnings).into())
}

/// The devices that were named, or all that have modes.
fn chosen<'i>(inventory: &'i Inventory, named: &BTreeSet<Bdf>) -> Result<Vec<&'i Device>> {
    if named.is_empty() {
        let has_modes = |device: &&Device| Kind::of(device).is_some();
        return Ok(inventory.devices.values().filter(has_modes).collect());
    }
    let mut devices = Vec::new();
    for &bdf in named {
        let device = inventory.device(bdf)?;
        if Kind::of(device).is_none() {
            return Err(Error::conflict(format!("{bdf} has no confidential-computing mode"))
                .hint("NVIDIA's H100 and newer GPUs, and their NVSwitches, have"));
        }
        devices.push(device);
    }
    Ok(devices)
}

fn shown(host: &Host, device: &Device) -> CcItem {
    let Modes { cc, ppcie } = mode::read(host, device);
    let (action, output) = (Action::NONE, Vec::new());
    CcItem { bdf: device.bdf, cc_mode: cc, ppcie_mode: ppcie, action, output }
}

/// The modes that devices are to have.
///
/// Errors: `conflict` for a device that a driver of the host has, and for protected PCIe on a part of a
/// baseboard.
fn plan(inventory: &Inventory, devices: &[&Device], setting: Setting) -> Result<Vec<(Bdf, Modes)>> {
    let busy =
        devices.iter().find_map(|d| Some((d.bdf, d.driver.as_ref().filter(|_| d.in_use())?)));
    if let Some((bdf, driver)) = busy {
        return Err(Error::conflict(format!("{driver} has {bdf}: its mode cannot be set"))
            .hint(format!("tdx-gpu bind {bdf} takes it from that driver")));
    }
    if setting == Setting::Ppcie {
        let named: BTreeSet<Bdf> = devices.iter().map(|device| device.bdf).collect();
        let on_board = inventory.devices.values().filter(|device| Kind::of(device).is_some());
        let missing: Vec<String> = on_board
            .filter(|device| !named.contains(&device.bdf))
            .map(|device| device.bdf.to_string())
            .collect();
        if !missing.is_empty() {
            return Err(Error::conflict("protected PCIe takes every GPU and NVSwitch of the host")
                .because(format!("missing: {}", missing.join(", ")))
                .hint("--set on protects single GPUs"));
        }
    }
    let modes = |device: &&Device| {
        let kind = Kind::of(device)?;
        let cc = match setting {
            Setting::Off | Setting::Ppcie => CcMode::Off,
            Setting::On => CcMode::On,
            Setting::Devtools => CcMode::Devtools,
        };
        let ppcie = if setting == Setting::Ppcie { PpcieMode::On } else { PpcieMode::Off };
        let Modes { cc: has_cc, ppcie: has_ppcie } = kind.unknown();
        Some((device.bdf, Modes { cc: has_cc.map(|_| cc), ppcie: has_ppcie.map(|_| ppcie) }))
    };
    let plan: Vec<_> = devices.iter().filter_map(modes).collect();
    let without = plan.iter().find(|(_, modes)| modes.ppcie.is_none());
    match without {
        Some((bdf, _)) if setting == Setting::Ppcie => {
            Err(Error::conflict(format!("{bdf} has no protected PCIe"))
                .hint("--set on protects it: it encrypts its links by itself"))
        }
        _ => Ok(plan),
    }
}

fn imagined((bdf, modes): &(Bdf, Modes)) -> CcItem {
    let (action, output) = (Action("set"), Vec::new());
    CcItem { bdf: *bdf, cc_mode: modes.cc, ppcie_mode: modes.ppcie, action, output }
}

/// Sets the modes, switches first, and puts those already set back when one fails.
fn apply(tools: &GpuTools, plan: &[(Bdf, Modes)]) -> Result<Vec<CcItem>> {
    let mut before: Vec<(Bdf, Modes)> = Vec::new();
    let mut items = Vec::new();
    // A switch has no mode of confidential computing.
    let mut order: Vec<&(Bdf, Modes)> = plan.iter().collect();
    order.sort_by_key(|(bdf, modes)| (modes.cc.is_some(), *bdf));
    for (bdf, wanted) in order {
        let done =
            interrupt::check().and_then(|()| queried(tools, *bdf, *wanted)).and_then(|was| {
                if was == *wanted {
                    return Ok((Action::NONE, Vec::new()));
                }
                before.push((*bdf, was));
                set(tools, *bdf, *wanted).map(|output| (Action("set"), output))
            });
        match done {
            Ok((action, output)) => {
                let (cc_mode, ppcie_mode) = (wanted.cc, wanted.ppcie);
                items.push(CcItem { bdf: *bdf, cc_mode, ppcie_mode, action, output });
            }
            Err(error) => {
                let back = before.into_iter().rev();
                let failed = back.filter(|(bdf, modes)| set(tools, *bdf, *modes).is_err());
                return Err(error.left_behind(failed.map(|(bdf, _)| format!("the mode of {bdf}"))));
            }
        }
    }
    Ok(items)
}

/// The modes that the program sees, of those that are wanted.
fn queried(tools: &GpuTools, bdf: Bdf, wanted: Modes) -> Result<Modes> {
    Ok(Modes {
        cc: wanted.cc.map(|_| tools.cc(bdf)).transpose()?,
        ppcie: wanted.ppcie.map(|_| tools.ppcie(bdf)).transpose()?,
    })
}

/// Sets both modes, the one that goes off first: a device has one of them at a time.
fn set(tools: &GpuTools, bdf: Bdf, wanted: Modes) -> Result<Vec<String>> {
    let mut output = Vec::new();
    let cc = |output: &mut Vec<String>| match wanted.cc {
        Some(mode) => tools.set_cc(bdf, mode).map(|answer| output.extend(answer.0)),
        None => Ok(()),
    };
    let ppcie = |output: &mut Vec<String>| match wanted.ppcie {
        Some(mode) => tools.set_ppcie(bdf, mode).map(|answer| output.extend(answer.0)),
        None => Ok(()),
    };
    if wanted.ppcie == Some(PpcieMode::On) {
        cc(&mut output)?;
        ppcie(&mut output)?;
    } else {
        ppcie(&mut output)?;
        cc(&mut output)?;
    }
    let now = queried(tools, bdf, wanted)?;
    match now == wanted {
        true => Ok(output),
        false => Err(Error::failed(format!("the mode of {bdf} is not what was set"))
            .because(output.join("; "))),
    }
}
