//! Records of devices that are bound at every boot.
//!
//! Each device has one record below `/etc/tdx/bind.d`, which only root can read. A device is found by its serial
//! number, else by its hop path, else by its PCI address. Its ids have to match the record. Every change is made
//! under a lock on the directory. At boot, the systemd [`mod@unit`] binds the recorded devices.

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use common::device_state::bound_devices::Identity;
use common::system::pci::Bdf;
use common::system::sysroot;
use common::system::sysroot::Host;
use common::{Code, Error, IoContext, Result};
use serde::{Deserialize, Serialize};
use tdx_iommu::inventory::Inventory;
use tdx_iommu::inventory::device::Device;

use crate::boot::unit;

const FOLDER: &str = "/etc/tdx/bind.d";

/// The record of a device that is bound at every boot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootRecord {
    /// The PCI address of the device when it was recorded.
    pub bdf: Bdf,
    /// The hop path of the device when it was recorded.
    pub path: Option<String>,
    /// The properties that identify the device.
    pub identity: Identity,
    /// The former driver of the host, which `unbind` binds the device to. At boot, the device may have no driver yet.
    pub driver: Option<String>,
    /// The codes of the blockers that were forced.
    pub force: Vec<Code>,
    /// The memory of the guest; none for all memory of the host.
    pub memory_bytes: Option<u64>,
    /// Whether the guest uses the device through iommufd.
    pub iommufd: bool,
}

impl BootRecord {
    /// The current PCI address of the device.
    ///
    /// Errors: `not_found` when its place is empty; `conflict` with code `IDENTITY_CHANGED` when another device is in
    /// its place.
    pub fn find(&self, inventory: &Inventory) -> Result<Bdf> {
        let same = |device: &&Device| !self.identity.contradicts(&device.identity());
        let same: Vec<&Device> = inventory.devices.values().filter(same).collect();
        // The serial number is more reliable than the place. The functions of a card can share it.
        let serial = self.identity.serial.as_ref();
        let has_serial = |device: &&&Device| serial.is_some() && device.serial.as_ref() == serial;
        let mut numbered = same.iter().filter(has_serial);
        let at_place = same.iter().filter(|device| self.is_at_same_place(device));
        // A device in its place that shows no serial number, such as in D3cold, is not another device.
        let at_place = at_place.max_by_key(|device| has_serial(device));
        let mut elsewhere = || {
            let mut same = numbered.by_ref().filter(|d| d.bdf.function == self.bdf.function);
            same.next().filter(|_| same.next().is_none())
        };
        let found = match at_place {
            Some(device) if has_serial(&device) || serial.is_none() => Some(device),
            silent => elsewhere().or(silent),
        };
        found.map(|device| device.bdf).ok_or_else(|| self.changed_error(inventory))
    }

    /// Whether a device is in the place of the recorded device.
    fn is_at_same_place(&self, device: &Device) -> bool {
        match (&self.path, &device.path) {
            (Some(recorded), Some(path)) => *recorded == path.to_string(),
            _ => self.bdf == device.bdf,
        }
    }

    fn changed_error(&self, inventory: &Inventory) -> Error {
        let bdf = self.bdf;
        let hint = format!(
            "to delete the record, run tdx-gpu unbind {bdf}; to record the present device, run tdx-gpu bind \
             {bdf} --persist"
        );
        match inventory.devices.values().find(|device| self.is_at_same_place(device)) {
            None => Error::not_found(format!(
                "device {bdf} is recorded to be bound at every boot, but does not exist"
            )),
            Some(device) => Error::conflict(format!(
                "the device at {} differs from the device that is recorded to be bound at every boot",
                device.bdf
            ))
            .code(Code::IdentityChanged)
            .because(format!(
                "recorded: {}; found: {}",
                display_identity(&self.identity),
                display_identity(&device.identity())
            )),
        }
        .hint(hint)
    }
}

fn display_identity(identity: &Identity) -> String {
    let id = |id: Option<u16>| id.map_or_else(|| "?".to_owned(), |id| format!("{id:04x}"));
    let Identity { vendor, device, subsystem_vendor, subsystem_device, class, serial } = identity;
    let class = class.map_or_else(|| "?".to_owned(), |class| format!("{class:06x}"));
    format!(
        "{}:{} (subsystem {}:{}), class {class}, serial number {}",
        id(*vendor),
        id(*device),
        id(*subsystem_vendor),
        id(*subsystem_device),
        serial.as_deref().unwrap_or("unknown")
    )
}

/// A record, with its file and the current PCI address of its device.
#[derive(Debug)]
pub struct LocatedRecord {
    file: PathBuf,
    /// The record.
    pub record: BootRecord,
    /// The current PCI address of the device, or the error of [`BootRecord::find`].
    pub now: Result<Bdf>,
}

impl LocatedRecord {
    /// The current PCI address of the device, or the recorded address if the device was not found.
    pub fn bdf(&self) -> Bdf {
        *self.now.as_ref().unwrap_or(&self.record.bdf)
    }
}

/// The records of all devices that are bound at every boot.
#[derive(Debug)]
pub struct BootRecords {
    /// The records, sorted by file.
    pub records: Vec<LocatedRecord>,
    /// An error for each damaged record.
    pub damaged: Vec<Error>,
}

impl BootRecords {
    /// Reads the records and finds their devices.
    ///
    /// Errors: `permission` or `io` when the records cannot be read.
    pub fn read(host: &Host, inventory: &Inventory) -> Result<Self> {
        let folder = host.path(FOLDER);
        let mut boot_records = Self { records: Vec::new(), damaged: Vec::new() };
        let entries = match fs::read_dir(&folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(boot_records),
            entries => entries.at("read", &folder)?,
        };
        let mut files: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
        files.retain(|file| file.extension().is_some_and(|extension| extension == "json"));
        files.sort_unstable();
        for file in files {
            let text = fs::read_to_string(&file).at("read", &file)?;
            match serde_json::from_str::<BootRecord>(&text) {
                Ok(record) => {
                    let now = record.find(inventory);
                    boot_records.records.push(LocatedRecord { file, record, now });
                }
                Err(error) => boot_records.damaged.push(
                    Error::invalid_input(format!("the record {} is damaged", file.display()))
                        .because(error)
                        .hint(
                            "remove the file, then run tdx-gpu bind --persist again for the device",
                        ),
                ),
            }
        }
        Ok(boot_records)
    }

    /// The records of the device at a PCI address, usually at most one.
    pub fn records_of(&self, bdf: Bdf) -> impl Iterator<Item = &LocatedRecord> {
        self.records.iter().filter(move |found| found.bdf() == bdf)
    }

    /// Whether the device at a PCI address is bound at every boot.
    pub fn has(&self, bdf: Bdf) -> bool {
        self.records_of(bdf).next().is_some()
    }

    /// Whether exactly this record exists.
    pub fn matches(&self, record: &BootRecord) -> bool {
        let mut of = self.records_of(record.bdf);
        of.next().is_some_and(|found| found.record == *record) && of.next().is_none()
    }
}

/// Writes the records of devices, in place of earlier records of the same devices, and enables the unit.
///
/// Errors: `permission`, `io`. On failure, the former records are restored.
pub fn store(host: &Host, inventory: &Inventory, records: &[BootRecord]) -> Result<()> {
    let _lock = lock(host)?;
    let mut before = Vec::new();
    let kept = write(host, inventory, records, &mut before);
    if kept.is_err() {
        for (file, text) in before.into_iter().rev() {
            let _ = match text {
                Some(text) => sysroot::replace(&file, &text, 0o600),
                None => fs::remove_file(&file).at("remove", &file),
            };
        }
        let _ = tidy(host);
    }
    kept
}

/// Writes the unit and then the records. The unit does nothing without records. The former content goes to `before`.
fn write(
    host: &Host,
    inventory: &Inventory,
    records: &[BootRecord],
    before: &mut Vec<(PathBuf, Option<String>)>,
) -> Result<()> {
    let boot_records = BootRecords::read(host, inventory)?;
    unit::ensure(host)?;
    for record in records.iter().filter(|record| !boot_records.matches(record)) {
        let mut of = boot_records.records_of(record.bdf);
        let file =
            of.next().map_or_else(|| free_path(host, record.bdf), |found| found.file.clone());
        before.push((file.clone(), fs::read_to_string(&file).ok()));
        let text = serde_json::to_string_pretty(record).unwrap_or_default() + "\n";
        sysroot::replace(&file, &text, 0o600)?;
        for other in of {
            before.push((other.file.clone(), fs::read_to_string(&other.file).ok()));
            fs::remove_file(&other.file).at("remove", &other.file)?;
        }
    }
    Ok(())
}

/// Removes the records of devices, and the unit with the last record. Also repairs what a killed command left.
///
/// Errors: `permission`, `io`.
pub fn forget(host: &Host, inventory: &Inventory, devices: &BTreeSet<Bdf>) -> Result<()> {
    if !host.has(FOLDER) && !unit::exists(host) {
        return Ok(());
    }
    let _lock = lock(host)?;
    for found in BootRecords::read(host, inventory)?.records {
        if devices.contains(&found.bdf()) {
            fs::remove_file(&found.file).at("remove", &found.file)?;
        }
    }
    // Under the lock, a file whose name begins with a dot was left by a killed command.
    let folder = host.path(FOLDER);
    for entry in fs::read_dir(&folder).at("read", &folder)?.flatten() {
        if entry.file_name().as_encoded_bytes().starts_with(b".") {
            fs::remove_file(entry.path()).at("remove", entry.path())?;
        }
    }
    sysroot::flush(&folder)?;
    tidy(host)
}

/// Removes the unit if no record is left.
fn tidy(host: &Host) -> Result<()> {
    let folder = host.path(FOLDER);
    let mut names = fs::read_dir(&folder).at("read", &folder)?.flatten();
    let is_record = |path: &Path| path.extension().is_some_and(|extension| extension == "json");
    if names.any(|entry| is_record(&entry.path())) { Ok(()) } else { unit::remove(host) }
}

/// A free file name for a record. The plain name may belong to the record of another device that had this address.
fn free_path(host: &Host, bdf: Bdf) -> PathBuf {
    let mut file = host.path(FOLDER).join(format!("{bdf}.json"));
    let mut number = 2;
    while file.exists() {
        file.set_file_name(format!("{bdf}-{number}.json"));
        number += 1;
    }
    file
}

/// Locks the directory of the records until the file is dropped. Creates the directory if it is absent.
fn lock(host: &Host) -> Result<File> {
    let folder = host.path(FOLDER);
    if let Some(above) = folder.parent() {
        fs::create_dir_all(above).at("create", above)?;
    }
    match DirBuilder::new().mode(0o700).create(&folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            return Err(error).at("create", &folder);
        }
        _ => {}
    }
    let file = File::open(&folder).at("open", &folder)?;
    file.lock().at("lock", &folder)?;
    Ok(file)
}
