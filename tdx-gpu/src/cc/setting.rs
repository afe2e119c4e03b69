//! Sets the modes of several devices, and restores the former modes if one device fails.
//!
//! A mode persists across reboots. The former modes are therefore recorded in a directory that persists as well.

use std::collections::BTreeSet;

use clap::ValueEnum;
use common::cli::{interrupt, log};
use common::device_state::bound_devices::Identity;
use common::device_state::device_lock;
use common::device_state::device_lock::{DeviceLock, Record};
use common::document::Action;
use common::system::pci::Bdf;
use common::system::sysroot::Host;
use common::{Error, Result};
use serde::{Deserialize, Serialize};
use tdx_iommu::inventory::Inventory;
use tdx_iommu::inventory::device::Device;

use crate::cc::gpu_tools::GpuTools;
use crate::cc::mode::{CcMode, Kind, Modes, PpcieMode};

/// A mode to set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Setting {
    /// No confidential computing
    Off,
    /// Confidential computing for each GPU by itself
    On,
    /// Confidential computing for development: debugging is possible, nothing is protected
    Devtools,
    /// Protected PCIe: one guest has all GPUs and NVSwitches of the host
    Ppcie,
}

impl Setting {
    /// The mode in which these devices protect a guest that has all of them; none if no device has modes.
    ///
    /// Protected PCIe is for complete baseboards, whose GPUs communicate over NVSwitches.
    pub fn to_protect(inventory: &Inventory, devices: &[&Device]) -> Option<Self> {
        let kinds: Vec<Kind> =
            devices.iter().filter_map(|device| Kind::from_device(device)).collect();
        let on_board =
            inventory.devices.values().filter(|device| Kind::from_device(device).is_some());
        let whole = on_board.count() == kinds.len();
        let linked = kinds.contains(&Kind::Switch);
        let all_have_ppcie = || kinds.iter().all(|kind| kind.unknown_modes().ppcie.is_some());
        if !kinds.iter().any(|kind| kind.is_gpu()) {
            None
        } else if whole && linked && all_have_ppcie() {
            Some(Self::Ppcie)
        } else {
            Some(Self::On)
        }
    }
}

/// A step of a plan: sets the modes of one device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModeStep {
    /// The PCI address.
    pub bdf: Bdf,
    /// The properties that identify the device.
    pub identity: Identity,
    /// The modes to set; none for a mode that the device does not have.
    pub modes: Modes,
}

/// Plans to set the mode of these devices. Devices without modes are left out.
///
/// Errors: `conflict` for protected PCIe on a part of a baseboard.
pub fn plan(inventory: &Inventory, devices: &[&Device], setting: Setting) -> Result<Vec<ModeStep>> {
    if setting == Setting::Ppcie {
        let named: BTreeSet<Bdf> = devices.iter().map(|device| device.bdf).collect();
        let on_board =
            inventory.devices.values().filter(|device| Kind::from_device(device).is_some());
        let missing: Vec<String> = on_board
            .filter(|device| !named.contains(&device.bdf))
            .map(|device| device.bdf.to_string())
            .collect();
        if !missing.is_empty() {
            return Err(Error::conflict(
                "the mode ppcie needs all GPUs and NVSwitches of the host, but some are not named",
            )
            .because(format!("missing: {}", missing.join(", ")))
            .hint("name all GPUs and NVSwitches, or set the mode 'on', which protects each GPU separately"));
        }
    }
    let step = |device: &&Device| {
        let cc = match setting {
            Setting::Off | Setting::Ppcie => CcMode::Off,
            Setting::On => CcMode::On,
            Setting::Devtools => CcMode::Devtools,
        };
        let ppcie = if setting == Setting::Ppcie { PpcieMode::On } else { PpcieMode::Off };
        let has = Kind::from_device(device)?.unknown_modes();
        let modes = Modes { cc: has.cc.map(|_| cc), ppcie: has.ppcie.map(|_| ppcie) };
        Some(ModeStep { bdf: device.bdf, identity: device.identity(), modes })
    };
    let mut steps: Vec<ModeStep> = devices.iter().filter_map(step).collect();
    match steps.iter().find(|step| step.modes.ppcie.is_none()) {
        Some(ModeStep { bdf, .. }) if setting == Setting::Ppcie => {
            Err(Error::conflict(format!("{bdf} does not support the mode ppcie"))
                .hint("set the mode 'on', in which the GPU itself encrypts its links"))
        }
        _ => {
            // NVSwitches first: they have no confidential-computing mode.
            steps.sort_by_key(|step| (step.modes.cc.is_some(), step.bdf));
            Ok(steps)
        }
    }
}

/// The record of the modes that a device had before they were changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PreviousMode {
    /// The PCI address.
    pub bdf: Bdf,
    identity: Identity,
    #[serde(flatten)]
    modes: Modes,
    /// The UUID of the domain that the modes were changed for.
    pub domain: Option<String>,
    committed: bool,
}

impl PreviousMode {
    /// Whether the device at the recorded address is still the recorded device.
    pub fn is_same_device(&self, inventory: &Inventory) -> bool {
        let there = inventory.devices.get(&self.bdf).map(Device::identity);
        there.is_some_and(|there| !self.identity.contradicts(&there))
    }
}

impl Record for PreviousMode {
    const FOLDER: &'static str = "/var/lib/tdx/modes";

    fn bdf(&self) -> Bdf {
        self.bdf
    }

    fn is_committed(&self) -> bool {
        self.committed
    }

    fn commit(&mut self) {
        self.committed = true;
    }
}

/// The result of setting the modes of one device.
#[derive(Debug)]
pub struct ModeChange {
    /// The PCI address.
    pub bdf: Bdf,
    /// The current modes of the device.
    pub modes: Modes,
    /// `set` or `none`.
    pub action: Action,
    /// The output of NVIDIA's program.
    pub output: Vec<String>,
    /// Warnings about modes that could not be read.
    pub warnings: Vec<String>,
    before: Modes,
    /// The lock, whose record has the former modes; none if an older record has them.
    lock: Option<DeviceLock<PreviousMode>>,
}

/// Devices whose modes were set. The former modes are restored by [`ModifiedModes::undo_after`], unless the modes are
/// kept or committed.
#[derive(Debug)]
#[must_use = "the records stay unfinished until the modes are kept or committed"]
pub struct ModifiedModes<'t> {
    tools: &'t GpuTools,
    /// The devices, in the order in which their modes were set.
    pub devices: Vec<ModeChange>,
}

/// Sets the modes, for a domain if its UUID is given. If one device fails, the former modes of all are restored.
///
/// Errors: `conflict` with code `RESERVED` while another command works on a device, or after such a command was killed;
/// those of NVIDIA's program.
pub fn apply<'t>(
    host: &Host,
    tools: &'t GpuTools,
    steps: Vec<ModeStep>,
    domain: Option<&str>,
) -> Result<ModifiedModes<'t>> {
    let mut modified = ModifiedModes { tools, devices: Vec::new() };
    for step in steps {
        let done = interrupt::check().and_then(|()| modified.set(host, step, domain));
        if let Err(error) = done {
            return Err(modified.undo_after(error));
        }
    }
    Ok(modified)
}

impl ModifiedModes<'_> {
    fn set(&mut self, host: &Host, step: ModeStep, domain: Option<&str>) -> Result<()> {
        let ModeStep { bdf, identity, modes: wanted } = step;
        let mut lock = DeviceLock::<PreviousMode>::take(host, bdf)?;
        let now = query_modes(self.tools, bdf, wanted)?;
        let (modes, warnings) = settable_modes(bdf, wanted, now);
        warnings.iter().for_each(log::step);
        let (before, lock) = match lock.stored() {
            // An older record has the former modes.
            Some(stored) if !stored.is_stale() => (now, None),
            Some(stored) => {
                if domain.is_some() && stored.record.domain.as_deref() == domain {
                    (stored.record.modes, Some(lock))
                } else {
                    return Err(device_lock::reserved_error(&stored));
                }
            }
            None if now == modes => (now, None),
            None => {
                let domain = domain.map(str::to_owned);
                lock.write(PreviousMode { bdf, identity, modes: now, domain, committed: false })?;
                (now, Some(lock))
            }
        };
        let (action, output) = (Action::None, Vec::new());
        self.devices.push(ModeChange { bdf, modes, action, output, warnings, before, lock });
        if let (Some(done), true) = (self.devices.last_mut(), now != modes) {
            done.action = Action::Set;
            done.output = set(self.tools, bdf, now, modes)?;
        }
        Ok(())
    }

    /// Keeps the modes for good and deletes the records of the former modes.
    pub fn keep(self) -> Result<Vec<ModeChange>> {
        let forget = |mut done: ModeChange| {
            done.lock.take().map_or(Ok(()), DeviceLock::forget)?;
            Ok(done)
        };
        self.devices.into_iter().map(forget).collect()
    }

    /// Keeps the modes until the domain is deleted or the devices are unbound. The records of the former modes remain.
    pub fn commit(self) -> Result<()> {
        self.devices.into_iter().filter_map(|done| done.lock).try_for_each(DeviceLock::commit)
    }

    /// Restores the former modes after a failure. Modes that could not be restored are reported in the error.
    pub fn undo_after(self, error: Error) -> Error {
        let tools = self.tools;
        let back = |done: ModeChange| {
            let changed = done.action != Action::None || done.lock.is_some();
            let back =
                if changed { set_if_different(tools, done.bdf, done.before) } else { Ok(()) };
            let forgotten = back.and_then(|()| done.lock.map_or(Ok(()), DeviceLock::forget));
            forgotten.is_err().then(|| format!("the confidential-computing mode of {}", done.bdf))
        };
        error.left_behind(self.devices.into_iter().rev().filter_map(back))
    }
}

/// Restores recorded modes, each under its lock. Returns the devices whose modes could not be restored, with the error.
///
/// The record of a device that is absent, or that was replaced by another device, is deleted. The mode of a device that
/// is bound to a driver of the host, such as after a reboot, is not restored.
pub fn restore_modes(
    inventory: &Inventory,
    locks: Vec<DeviceLock<PreviousMode>>,
) -> Vec<(Bdf, Error)> {
    let back = |lock: DeviceLock<PreviousMode>| {
        let there = lock.record().filter(|previous| previous.is_same_device(inventory));
        if let Some(PreviousMode { bdf, modes, .. }) = there {
            refuse_busy(&[inventory.device(*bdf)?])?;
            set_if_different(&GpuTools::find(None)?, *bdf, *modes)?;
        }
        lock.forget()
    };
    let failed = |lock: DeviceLock<PreviousMode>| {
        let bdf = lock.bdf();
        back(lock).err().map(|error| (bdf, error))
    };
    // GPUs first, in the reverse order of setting.
    locks.into_iter().rev().filter_map(failed).collect()
}

/// Fails for devices that are bound to a driver of the host, because NVIDIA's program would reset them while in use.
///
/// Errors: `conflict`.
pub fn refuse_busy(devices: &[&Device]) -> Result<()> {
    let busy =
        |device: &&Device| Some((device.bdf, device.driver.clone().filter(|_| device.in_use())?));
    match devices.iter().find_map(busy) {
        None => Ok(()),
        Some((bdf, driver)) => Err(Error::conflict(format!(
            "cannot set the confidential-computing mode of {bdf}: the device is bound to the driver {driver}"
        ))
        .hint(format!("bind the device to VFIO first: tdx-gpu bind {bdf}"))),
    }
}

/// Reads the wanted modes with NVIDIA's program.
///
/// The protected PCIe mode may be unknown if it is not to be set, because the firmware of some GPUs does not report it.
/// Errors: those of the program about a mode that has to be known.
fn query_modes(tools: &GpuTools, bdf: Bdf, wanted: Modes) -> Result<Modes> {
    let cc = match wanted.cc {
        Some(CcMode::Unknown) => Some(CcMode::Unknown),
        cc => cc.map(|_| tools.cc(bdf)).transpose()?,
    };
    let ppcie = match wanted.ppcie {
        Some(PpcieMode::Off) if cc.is_some() => {
            Some(tools.ppcie(bdf).unwrap_or(PpcieMode::Unknown))
        }
        Some(PpcieMode::Unknown) => Some(PpcieMode::Unknown),
        ppcie => ppcie.map(|_| tools.ppcie(bdf)).transpose()?,
    };
    Ok(Modes { cc, ppcie })
}

/// The wanted modes that can be set. A mode that cannot be read is not changed, with a warning.
fn settable_modes(bdf: Bdf, wanted: Modes, now: Modes) -> (Modes, Vec<String>) {
    match now.ppcie {
        Some(PpcieMode::Unknown) => {
            let warning = format!(
                "cannot read the protected PCIe mode of {bdf}: the protected PCIe mode was not changed"
            );
            (Modes { ppcie: now.ppcie, ..wanted }, vec![warning])
        }
        _ => (wanted, Vec::new()),
    }
}

fn set_if_different(tools: &GpuTools, bdf: Bdf, wanted: Modes) -> Result<()> {
    let now = query_modes(tools, bdf, wanted)?;
    let (wanted, _) = settable_modes(bdf, wanted, now);
    if now == wanted { Ok(()) } else { set(tools, bdf, now, wanted).map(drop) }
}

/// Sets the modes that differ from `now`. The mode to turn off is set first, because a device has one mode at a time.
///
/// A mode that already has the wanted value is not set again, because the firmware of some GPUs refuses to set
/// protected PCIe at all.
fn set(tools: &GpuTools, bdf: Bdf, now: Modes, wanted: Modes) -> Result<Vec<String>> {
    let mut output = Vec::new();
    let cc = |output: &mut Vec<String>| match wanted.cc.filter(|_| wanted.cc != now.cc) {
        Some(mode) => tools.set_cc(bdf, mode).map(|answer| output.extend(answer.0)),
        None => Ok(()),
    };
    let ppcie = |output: &mut Vec<String>| match wanted.ppcie.filter(|_| wanted.ppcie != now.ppcie)
    {
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
    let now = query_modes(tools, bdf, wanted)?;
    if now == wanted {
        Ok(output)
    } else {
        Err(Error::failed(format!(
            "cannot set the confidential-computing mode of {bdf}: the device still reports another mode"
        ))
        .because(output.join("; ")))
    }
}
