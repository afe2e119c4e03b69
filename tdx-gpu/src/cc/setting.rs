//! Setting the modes of confidential computing: planned for all devices, and put back when one fails.
//!
//! A mode outlives a reboot, so what it was is recorded where that lasts as long.

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
    /// No protection
    Off,
    /// Each GPU by itself in confidential-computing mode
    On,
    /// Confidential-computing mode, open to debugging
    Devtools,
    /// Protected PCIe: every GPU and NVSwitch of the baseboard, all for one guest
    Ppcie,
}

impl Setting {
    /// The mode in which these devices protect a guest that has them all; none where none of them has
    /// modes.
    ///
    /// Protected PCIe is for whole baseboards, whose GPUs talk over switches.
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

/// A step that sets the modes of one device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModeStep {
    /// Its address.
    pub bdf: Bdf,
    /// What it is.
    pub identity: Identity,
    /// The modes, of those it has.
    pub modes: Modes,
}

/// Plans to set the mode of these devices. Those without modes stay as they are.
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
            return Err(Error::conflict("protected PCIe takes every GPU and NVSwitch of the host")
                .because(format!("missing: {}", missing.join(", ")))
                .hint("the mode on protects single GPUs"));
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
            Err(Error::conflict(format!("{bdf} has no protected PCIe"))
                .hint("the mode on protects it: it encrypts its links by itself"))
        }
        _ => {
            // Switches first: they have no mode of confidential computing.
            steps.sort_by_key(|step| (step.modes.cc.is_some(), step.bdf));
            Ok(steps)
        }
    }
}

/// The modes that a device had before they were changed, as they are recorded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PreviousMode {
    /// Its address.
    pub bdf: Bdf,
    identity: Identity,
    #[serde(flatten)]
    modes: Modes,
    /// The UUID of the domain they were changed for.
    pub domain: Option<String>,
    committed: bool,
}

impl PreviousMode {
    /// Whether the device at its address is the one that had these modes.
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

/// What was done to the modes of one device.
#[derive(Debug)]
pub struct ModeChange {
    /// Its address.
    pub bdf: Bdf,
    /// Its modes now.
    pub modes: Modes,
    /// `set`, or `none`.
    pub action: Action,
    /// What NVIDIA's program said.
    pub output: Vec<String>,
    /// What could not be read, and what was done about it: a sentence each.
    pub warnings: Vec<String>,
    before: Modes,
    /// The lock, and in it what the modes were; none where an older record says that.
    lock: Option<DeviceLock<PreviousMode>>,
}

/// Devices whose modes were set; undone unless they are kept or committed.
#[derive(Debug)]
#[must_use = "the records say that it is unfinished until it is kept or committed"]
pub struct ModifiedModes<'t> {
    tools: &'t GpuTools,
    /// In the order in which they were set.
    pub devices: Vec<ModeChange>,
}

/// Sets the modes, for a domain when its UUID is given, and puts them back when one fails.
///
/// Errors: `conflict` with code `RESERVED` while another command is at it, or one died over it;
/// whatever NVIDIA's program says.
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
            // An older record says what the modes were.
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

    /// The modes stay for good: what they were is forgotten.
    pub fn keep(self) -> Result<Vec<ModeChange>> {
        let forget = |mut done: ModeChange| {
            done.lock.take().map_or(Ok(()), DeviceLock::forget)?;
            Ok(done)
        };
        self.devices.into_iter().map(forget).collect()
    }

    /// The modes stay as long as what they were set for.
    pub fn commit(self) -> Result<()> {
        self.devices.into_iter().filter_map(|done| done.lock).try_for_each(DeviceLock::commit)
    }

    /// Puts everything back after a failure, which then says what is left.
    pub fn undo_after(self, error: Error) -> Error {
        let tools = self.tools;
        let back = |done: ModeChange| {
            let changed = done.action != Action::None || done.lock.is_some();
            let back =
                if changed { set_if_different(tools, done.bdf, done.before) } else { Ok(()) };
            let forgotten = back.and_then(|()| done.lock.map_or(Ok(()), DeviceLock::forget));
            forgotten.is_err().then(|| format!("the mode of {}", done.bdf))
        };
        error.left_behind(self.devices.into_iter().rev().filter_map(back))
    }
}

/// Restores recorded modes, each under its lock. Returns the devices that are left as they were, with the
/// reason.
///
/// A record of a device that is gone, or is another one now, is dropped. One that a driver of the host has
/// got since, as after a reboot, is left.
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
    // GPUs first: the other way round than they were set.
    locks.into_iter().rev().filter_map(failed).collect()
}

/// Fails for devices that a driver of the host has: NVIDIA's program would pull them from under it.
///
/// Errors: `conflict`.
pub fn refuse_busy(devices: &[&Device]) -> Result<()> {
    let busy =
        |device: &&Device| Some((device.bdf, device.driver.clone().filter(|_| device.in_use())?));
    match devices.iter().find_map(busy) {
        None => Ok(()),
        Some((bdf, driver)) => {
            Err(Error::conflict(format!("{driver} has {bdf}: its mode cannot be set"))
                .hint(format!("tdx-gpu bind {bdf} takes it from that driver")))
        }
    }
}

/// The modes that the program sees, of those that are wanted.
///
/// Protected PCIe that is not to be on may be unknown: the firmware of some GPUs does not tell.
/// Errors: whatever the program says about a mode that has to be known.
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

/// The modes to set, of those that are wanted: what cannot be read is left as it is, and told.
fn settable_modes(bdf: Bdf, wanted: Modes, now: Modes) -> (Modes, Vec<String>) {
    match now.ppcie {
        Some(PpcieMode::Unknown) => {
            let warning = format!(
                "the protected PCIe mode of {bdf} cannot be read: it is left as it is, not turned off"
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

/// Sets those modes that differ from `now`, the one that goes off first: a device has one of them at a time.
///
/// A mode that is as wanted is not set again: the firmware of some GPUs refuses to set protected PCIe at all.
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
        Err(Error::failed(format!("the mode of {bdf} is not what was set"))
            .because(output.join("; ")))
    }
}
