//! `tdx-gpu unbind`: unbinds devices from VFIO and binds them to their former drivers.

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

const EXAMPLES: &str = "Examples:
  tdx-gpu unbind 17:00.0
  tdx-gpu unbind --all --dry-run
  tdx-gpu unbind --stale";

/// Arguments of `unbind`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct UnbindArgs {
    /// PCI addresses of the devices; - reads the JSON output of tdx-gpu list or tdx-iommu scan from
    /// standard input
    #[arg(value_name = "BDF", required_unless_present_any = ["all", "stale"])]
    #[arg(conflicts_with_all = ["all", "stale"])]
    devices: Vec<DeviceArg>,
    /// Unbind every device that these tools bound, or that they bind at every boot
    #[arg(long)]
    all: bool,
    /// Restore only devices on which a command was killed before it finished
    #[arg(long, conflicts_with = "all")]
    stale: bool,
    #[command(flatten)]
    change: Change,
}

/// A device in a document of `tdx-gpu unbind`.
#[derive(Debug, Serialize, JsonSchema)]
pub struct UnbindItem {
    /// The PCI address.
    pub bdf: Bdf,
    /// The properties that identify the device; null when the device is absent.
    #[serde(flatten)]
    pub identity: DeviceIdentity,
    /// The driver that the device is bound to now.
    pub driver: Option<String>,
    /// The VFIO driver that the device was bound to.
    pub previous_driver: Option<String>,
    /// Whether the device was bound at every boot until now.
    pub was_persistent: bool,
    /// Whether the confidential-computing mode was restored that the device had before a domain used it.
    pub mode_restored: bool,
    /// `unbind`; `restore` when only the mode was restored; `forget` when only a record was deleted; or `none`.
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

/// Releases the devices, and the other functions of their slots that are bound to VFIO.
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
    // Only root can change or lock devices.
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
    // The devices of a killed command may still be bound at the next boot.
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

/// Fails if the command would change something, which needs root.
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
    Err(Error::permission("unbinding devices needs root").hint("run this command with sudo"))
}

/// Deletes the records of devices that are bound at boot, then releases the devices.
fn carry_out(
    host: &Host,
    inventory: &Inventory,
    devices: Vec<ReleasingDevice>,
    failures: Vec<Failure>,
    forgotten: &BTreeSet<Bdf>,
) -> Result<Vec<UnbindItem>> {
    persist::forget(host, inventory, forgotten)?;
    let forgot = forgotten.iter().map(|bdf| format!("{bdf} is no longer bound at boot"));
    give_back(host, inventory, devices, failures)
        .map_err(|error| error.applied(forgot.collect::<Vec<_>>()))
}

/// Locks the devices. A device that cannot be locked is a failure, which does not stop the others.
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
            // A device that another command works on is not stale.
            Err(error) if scope == Scope::Stale && releasing_device::is_reserved(&error) => {}
            Err(error) => failures.push(Failure { what: bdf.to_string(), error }),
        }
    }
    Ok((devices, failures))
}

/// Reads the records of the devices without a lock, for a dry run. A record of a named device that cannot be read is an
/// error.
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

/// Fails for devices to release that a process has open.
fn refuse_held(host: &Host, inventory: &Inventory, devices: &[ReleasingDevice]) -> Result<()> {
    let goes = |device: &&ReleasingDevice| {
        device.previous_mode.is_some() || device.action(inventory) == UnbindAction::Release
    };
    in_use::refuse(host, inventory, devices.iter().filter(goes).map(|device| device.bdf))
}

/// Fails for devices whose mode would be restored while they are bound to a driver of the host.
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
        // The driver of the host could not use the device in this mode.
        devices.retain(|device| device.bdf != bdf);
        failures.push(Failure { what: format!("the confidential-computing mode of {bdf}"), error });
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
