//! The devices that `unbind` works on, with their locks, and the action for each.

use std::collections::{BTreeMap, BTreeSet};

use common::device_state::bound_devices::{BoundLock, Record};
use common::device_state::device_lock::{DeviceLock, StoredRecord};
use common::device_state::{bound_devices, device_lock};
use common::system::pci::Bdf;
use common::system::sysroot::Host;
use common::{Code, Error, Result};
use tdx_iommu::inventory::Inventory;
use tdx_iommu::inventory::device::Device;

use crate::boot::persist::BootRecords;
use crate::cc::setting::PreviousMode;

/// The devices that the user asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// The named devices, and the other functions of their slots.
    Named,
    /// All recorded devices.
    All,
    /// The devices that a killed command left unfinished.
    Stale,
}

/// The action for a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnbindAction {
    /// Nothing: the device is not bound to VFIO and has no record.
    None,
    /// Delete the record: the device is absent, or another device has its place.
    Forget,
    /// Release the device.
    Release,
}

/// A device with its records.
#[derive(Debug)]
pub struct ReleasingDevice {
    /// The PCI address.
    pub bdf: Bdf,
    /// The record of the device's state before it was bound.
    pub record: Option<Record>,
    /// The record of the device's former modes, if any.
    pub previous_mode: Option<PreviousMode>,
    /// Whether the device is released even without a record.
    unrecorded: bool,
    lock: Option<BoundLock>,
    modes: Option<DeviceLock<PreviousMode>>,
}

/// The PCI addresses in a scope, and for each whether the device is released even without a record.
///
/// Errors: `permission` or `io` when the records cannot be listed.
pub fn select_devices(
    host: &Host,
    scope: Scope,
    inventory: &Inventory,
    named: &BTreeSet<Bdf>,
    boot_records: &BootRecords,
) -> Result<BTreeMap<Bdf, bool>> {
    let mut chosen = BTreeMap::new();
    if scope == Scope::Named {
        // The other functions of the slots that are bound to VFIO now or at every boot.
        let beside = named.iter().flat_map(|bdf| inventory.slot(*bdf));
        let beside = beside.filter(|device| device.on_vfio() || boot_records.has(device.bdf));
        chosen.extend(beside.map(|device| (device.bdf, true)));
        chosen.extend(named.iter().map(|bdf| (*bdf, true)));
        return Ok(chosen);
    }
    chosen.extend(device_lock::devices::<PreviousMode>(host)?.into_iter().map(|bdf| (bdf, false)));
    chosen.extend(device_lock::devices::<Record>(host)?.into_iter().map(|bdf| (bdf, false)));
    if scope == Scope::All {
        chosen.extend(boot_records.records.iter().map(|found| (found.bdf(), true)));
    }
    Ok(chosen)
}

impl ReleasingDevice {
    /// Reads the records of a device without a lock.
    ///
    /// Errors: those of [`device_lock::load`].
    pub fn read_unlocked(host: &Host, bdf: Bdf, unrecorded: bool, scope: Scope) -> Result<Self> {
        let (record, previous) =
            (bound_devices::load(host, bdf)?, device_lock::load::<PreviousMode>(host, bdf)?);
        let record = record.filter(|stored| is_in_scope(stored, scope)).map(|stored| stored.record);
        let previous =
            previous.filter(|stored| is_in_scope(stored, scope)).map(|stored| stored.record);
        Ok(Self { bdf, record, previous_mode: previous, unrecorded, lock: None, modes: None })
    }

    /// Locks a device and reads its records, which cannot change until this value is dropped.
    ///
    /// Errors: those of [`DeviceLock::take`].
    pub fn lock(host: &Host, bdf: Bdf, unrecorded: bool, scope: Scope) -> Result<Self> {
        let lock = BoundLock::take(host, bdf)?;
        let record = lock.stored().filter(|stored| is_in_scope(stored, scope));
        // For a device without a record of modes, the directory of these records is not created.
        let (mut modes, mut previous) = (None, None);
        if device_lock::devices::<PreviousMode>(host)?.contains(&bdf) {
            let lock = DeviceLock::<PreviousMode>::take(host, bdf)?;
            previous = lock.stored().filter(|stored| is_in_scope(stored, scope));
            modes = previous.is_some().then_some(lock);
        }
        let (record, previous) =
            (record.map(|r| r.record), previous.map(|previous| previous.record));
        Ok(Self { bdf, record, previous_mode: previous, unrecorded, lock: Some(lock), modes })
    }

    /// Whether the device has any record.
    pub fn is_recorded(&self) -> bool {
        self.record.is_some() || self.previous_mode.is_some()
    }

    /// The action for the device in its current state.
    pub fn action(&self, inventory: &Inventory) -> UnbindAction {
        let device = inventory.devices.get(&self.bdf);
        match (device, &self.record) {
            (None, Some(_)) => UnbindAction::Forget,
            (Some(device), Some(_)) if self.is_another_device(inventory) && !device.on_vfio() => {
                UnbindAction::Forget
            }
            (Some(_), Some(_)) => UnbindAction::Release,
            (Some(device), None) if device.on_vfio() && self.unrecorded => UnbindAction::Release,
            (_, None) => UnbindAction::None,
        }
    }

    /// Whether the address now belongs to another device than the recorded one. An unknown property proves nothing.
    pub fn is_another_device(&self, inventory: &Inventory) -> bool {
        let current = inventory.devices.get(&self.bdf).map(Device::identity);
        let contradicts = |record: &Record| Some(record.identity.contradicts(current.as_ref()?));
        self.record.as_ref().and_then(contradicts).unwrap_or(false)
    }

    /// The driver that the device is bound to on release; none to let the kernel choose.
    pub fn previous_driver(&self, inventory: &Inventory) -> Option<String> {
        let record = self.record.as_ref().filter(|_| !self.is_another_device(inventory))?;
        record.driver.clone()
    }

    /// The lock on the record of the device's modes, if any.
    pub fn take_modes(&mut self) -> Option<DeviceLock<PreviousMode>> {
        self.modes.take()
    }

    /// The lock on the device. The record of another device is discarded.
    ///
    /// Errors: `failed` for a device that is not locked.
    pub fn into_lock(self, inventory: &Inventory) -> Result<BoundLock> {
        let other = self.is_another_device(inventory);
        let unlocked =
            || Error::failed(format!("internal error: device {} is not locked", self.bdf));
        let mut lock = self.lock.ok_or_else(unlocked)?;
        if other {
            lock.discard_record();
        }
        Ok(lock)
    }
}

/// Whether an error means that another command works on the device.
pub fn is_reserved(error: &Error) -> bool {
    error.to_document().error.code == Some(Code::Reserved)
}

fn is_in_scope<R: device_lock::Record>(stored: &StoredRecord<R>, scope: Scope) -> bool {
    scope != Scope::Stale || stored.is_stale()
}
