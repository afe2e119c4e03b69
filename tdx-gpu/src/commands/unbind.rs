//! `tdx-gpu unbind`: devices go back to the drivers they were taken from.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

use clap::Args;
use common::cli::{Change, Context, interrupt, is_root};
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
use tdx_iommu::inventory::named_devices::DeviceArg;

use crate::boot::persist;
use crate::boot::persist::BootRecords;
use crate::cc::setting;
use crate::vfio::driver::Sysfs;
use crate::vfio::release::Failure;
use crate::vfio::releasing_device::{ReleasingDevice, Scope, UnbindAction};
use crate::vfio::{driverctl, in_use, release, releasing_device};

/// Arguments of `unbind`.
#[derive(Debug, Args)]
pub struct UnbindArgs {
    /// Devices; - for items with a bdf on standard input
    #[arg(value_name = "BDF", required_unless_present_any = ["all", "stale"])]
    #[arg(conflicts_with_all = ["all", "stale"])]
    devices: Vec<DeviceArg>,
    /// Every device that was bound by these tools, or is at every boot
    #[arg(long)]
    all: bool,
    /// Only what commands that died have left half done
    #[arg(long, conflicts_with = "all")]
    stale: bool,
    #[command(flatten)]
    change: Change,
}

/// A device that was to go back.
#[derive(Debug, Serialize, JsonSchema)]
pub struct UnbindItem {
    /// Address.
    pub bdf: Bdf,
    /// What it is; null where no device is.
    #[serde(flatten)]
    pub identity: DeviceIdentity,
    /// The driver that has it now.
    pub driver: Option<String>,
    /// The VFIO driver that had it.
    pub previous_driver: Option<String>,
    /// Whether it was to be bound at every boot, which it is no more.
    pub was_persistent: bool,
    /// Whether its confidential-computing mode is what it was before it was changed for a domain.
    pub mode_restored: bool,
    /// `unbind`; `restore` for one whose mode alone was changed; `forget` for one of which there was only
    /// a record; or `none`.
    pub action: Action,
}

impl Item for UnbindItem {
    const COLUMNS: &'static [&'static str] = &["BDF", "DRIVER", "PREVIOUS"];

    fn key(&self) -> Cow<'_, str> {
        self.bdf.to_string().into()
    }

    fn compare(&self, other: &Self) -> Ordering {
        self.bdf.cmp(&other.bdf)
    }

    fn row(&self) -> Vec<String> {
        let driver = |driver: &Option<String>| driver.clone().unwrap_or_default();
        vec![self.bdf.to_string(), driver(&self.driver), driver(&self.previous_driver)]
    }

    fn action(&self) -> Option<Action> {
        Some(self.action)
    }
}

/// Gives devices back, with the other functions of their slots that VFIO has.
pub fn run(context: &Context, args: UnbindArgs) -> Result<Outcome> {
    let host = &context.host;
    let requested = named_devices::read(&args.devices)?;
    interrupt::guard();
    let scope = match (args.all, args.stale) {
        (true, _) => Scope::All,
        (_, true) => Scope::Stale,
        _ => Scope::Named,
    };
    let mut inventory = Inventory::read(host)?;
    requested.expect_same(host, &inventory)?;
    let boot_records = BootRecords::read(host, &inventory)?;
    let mut warnings = requested.warnings.clone();
    warnings.extend(boot_records.damaged.iter().map(ToString::to_string));
    let chosen = releasing_device::select_devices(
        host,
        scope,
        &inventory,
        &requested.devices,
        &boot_records,
    )?;
    // Without root nothing can be changed, and nothing be locked.
    let apply = is_root() && !args.change.dry_run;
    let (devices, failures) = if apply {
        lock(host, scope, &chosen)?
    } else {
        (read_unlocked(host, scope, &chosen, &mut warnings)?, Vec::new())
    };
    if apply {
        inventory = Inventory::read(host)?;
        inventory.wake(host, chosen.keys().copied());
        requested.expect_same(host, &inventory)?;
    }
    for device in devices.iter().filter(|d| !d.is_recorded() && !boot_records.has(d.bdf)) {
        inventory.device(device.bdf)?;
    }
    warnings.extend(devices.iter().filter_map(|device| driverctl::warning(host, device.bdf)));
    refuse_held(host, &inventory, &devices)?;
    if !apply {
        refuse_busy(&inventory, &devices)?;
    }
    // What a dead command left half done may well be done at the next boot.
    let is_forgotten = |bdf: &Bdf| scope != Scope::Stale && boot_records.has(*bdf);
    let forgotten: BTreeSet<Bdf> =
        devices.iter().map(|device| device.bdf).filter(is_forgotten).collect();
    let mut items = if apply {
        carry_out(host, &inventory, devices, failures, &forgotten)?
    } else {
        if !args.change.dry_run {
            expect_unchanged(&inventory, &devices, &forgotten)?;
        }
        devices.iter().map(|device| preview(&inventory, device)).collect()
    };
    for item in &mut items {
        item.was_persistent = forgotten.contains(&item.bdf);
        if item.was_persistent && item.action == Action::None {
            item.action = Action::Forget;
        }
    }
    let document = Document::new("tdx.gpu.unbind", items);
    Ok(document.dry_run(args.change.dry_run).warnings(warnings).into())
}

/// Fails when something is to be done, which only root can do.
///
/// Errors: `permission`.
fn expect_unchanged(
    inventory: &Inventory,
    devices: &[ReleasingDevice],
    forgotten: &BTreeSet<Bdf>,
) -> Result<()> {
    let changes = |device: &ReleasingDevice| {
        device.previous_mode.is_some() || device.action(inventory) != UnbindAction::None
    };
    if forgotten.is_empty() && !devices.iter().any(changes) {
        return Ok(());
    }
    Err(Error::permission("giving devices back takes root").hint("run it with sudo"))
}

/// Forgets the records of devices that are bound at boot, then gives the devices back.
fn carry_out(
    host: &Host,
    inventory: &Inventory,
    devices: Vec<ReleasingDevice>,
    failures: Vec<Failure>,
    forgotten: &BTreeSet<Bdf>,
) -> Result<Vec<UnbindItem>> {
    persist::forget(host, inventory, forgotten)?;
    let forgot = forgotten.iter().map(|bdf| format!("{bdf} is not bound at boot any more"));
    give_back(host, inventory, devices, failures)
        .map_err(|error| error.applied(forgot.collect::<Vec<_>>()))
}

/// Locks the devices. One that cannot be locked is a failure, and no matter to the others.
fn lock(
    host: &Host,
    scope: Scope,
    chosen: &BTreeMap<Bdf, bool>,
) -> Result<(Vec<ReleasingDevice>, Vec<Failure>)> {
    let (mut devices, mut failures) = (Vec::new(), Vec::new());
    for (bdf, unrecorded) in chosen {
        interrupt::check()?;
        match ReleasingDevice::lock(host, *bdf, *unrecorded, scope) {
            Ok(device) if scope == Scope::Stale && !device.is_recorded() => {}
            Ok(device) => devices.push(device),
            // What a command is at work on is not stale.
            Err(error) if scope == Scope::Stale && releasing_device::is_reserved(&error) => {}
            Err(error) => failures.push(Failure { what: bdf.to_string(), error }),
        }
    }
    Ok((devices, failures))
}

/// Looks at the devices without a lock, for a plan. What cannot be read of a named one is an error.
fn read_unlocked(
    host: &Host,
    scope: Scope,
    chosen: &BTreeMap<Bdf, bool>,
    warnings: &mut Vec<String>,
) -> Result<Vec<ReleasingDevice>> {
    let mut devices = Vec::new();
    for (bdf, unrecorded) in chosen {
        match ReleasingDevice::read_unlocked(host, *bdf, *unrecorded, scope) {
            Ok(device) if scope == Scope::Stale && !device.is_recorded() => {}
            Ok(device) => devices.push(device),
            Err(error) if scope == Scope::Named => return Err(error),
            Err(error) => warnings.push(error.to_string()),
        }
    }
    Ok(devices)
}

/// Fails for devices that are to go back and that a guest has open.
fn refuse_held(host: &Host, inventory: &Inventory, devices: &[ReleasingDevice]) -> Result<()> {
    let goes = |device: &&ReleasingDevice| {
        device.previous_mode.is_some() || device.action(inventory) == UnbindAction::Release
    };
    in_use::refuse(host, inventory, devices.iter().filter(goes).map(|device| device.bdf))
}

/// Fails for devices whose mode is to be restored while a driver of the host has them.
fn refuse_busy(inventory: &Inventory, devices: &[ReleasingDevice]) -> Result<()> {
    let previous_modes = devices.iter().filter_map(|device| device.previous_mode.as_ref());
    let previous_modes = previous_modes.filter(|previous| previous.is_same_device(inventory));
    let set: Vec<&Device> =
        previous_modes.filter_map(|previous| inventory.devices.get(&previous.bdf)).collect();
    setting::refuse_busy(&set)
}

fn identity_of(inventory: &Inventory, bdf: Bdf) -> DeviceIdentity {
    inventory.devices.get(&bdf).map(DeviceIdentity::from).unwrap_or_default()
}

fn preview(inventory: &Inventory, device: &ReleasingDevice) -> UnbindItem {
    let bdf = device.bdf;
    let now = inventory.devices.get(&bdf).and_then(|device| device.driver.clone());
    let previous = device.previous_mode.as_ref();
    let mode_restored = previous.is_some_and(|previous| previous.is_same_device(inventory));
    let (driver, action) = match device.action(inventory) {
        UnbindAction::None if mode_restored => (now.clone(), Action::Restore),
        UnbindAction::None if previous.is_some() => (now.clone(), Action::Forget),
        UnbindAction::None => (now.clone(), Action::None),
        UnbindAction::Forget => (now.clone(), Action::Forget),
        UnbindAction::Release => (device.previous_driver(inventory), Action::Unbind),
    };
    let previous_driver = now.filter(|_| action == Action::Unbind);
    let identity = identity_of(inventory, bdf);
    UnbindItem {
        bdf,
        identity,
        driver,
        previous_driver,
        was_persistent: false,
        mode_restored,
        action,
    }
}

fn give_back(
    host: &Host,
    inventory: &Inventory,
    mut devices: Vec<ReleasingDevice>,
    mut failures: Vec<Failure>,
) -> Result<Vec<UnbindItem>> {
    let modes = devices.iter_mut().filter_map(ReleasingDevice::take_modes).collect();
    for (bdf, error) in setting::restore_modes(inventory, modes) {
        // The host's own driver could do nothing with it as it is.
        devices.retain(|device| device.bdf != bdf);
        failures.push(Failure { what: format!("the mode of {bdf}"), error });
    }
    let (mut items, mut releasing) = (Vec::new(), Vec::new());
    for device in devices {
        interrupt::check()?;
        items.push(preview(inventory, &device));
        match device.action(inventory) {
            UnbindAction::None => {}
            UnbindAction::Forget => device.into_lock(inventory)?.forget()?,
            UnbindAction::Release => releasing.push(device.into_lock(inventory)?),
        }
    }
    let released = release::give_back(host, releasing);
    failures.extend(released.failures);
    let given = released.devices;
    let done: Vec<String> = given.iter().map(|bdf| format!("unbound {bdf}")).collect();
    release::settle_failures(failures, done)?;
    for item in items.iter_mut().filter(|item| given.contains(&item.bdf)) {
        item.driver = Sysfs::new(host, item.bdf).driver();
    }
    Ok(items)
}
