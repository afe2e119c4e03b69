//! Locks on devices, and the records in the lock files.
//!
//! Each kind of record has a directory with one file per device. The file is the lock: a process that works on
//! a device keeps the device's file locked, and the kernel releases the lock when the process ends. An empty file
//! locks a device that has no record. A command writes the record before it changes the device, and removes the
//! record when the device is back in its former state.
//!
//! A command decides what to do with a device only under the device's lock, from the record in the locked file.
//! What the command saw before it took the lock may have been changed by another command.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::fcntl::OFlag;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::code::Code;
use crate::error::{Error, IoContext, Result};
use crate::system::file_lock::{FileLock, LockKind, Patience, TryLock};
use crate::system::pci::Bdf;
use crate::system::sysroot;
use crate::system::sysroot::Host;

/// How long a process that only reads a record may keep the file locked.
const GLANCE: Patience = Patience {
    limit: Duration::from_millis(200),
    pause: Duration::from_millis(5),
    is_interruptible: false,
};

/// A record about a device.
pub trait Record: Clone + PartialEq + Serialize + DeserializeOwned {
    /// The directory that holds the records of this kind.
    const FOLDER: &'static str;

    /// The PCI address of the device.
    fn bdf(&self) -> Bdf;

    /// Whether the command that wrote the record finished its work on the device.
    fn is_committed(&self) -> bool;

    /// Marks the work as finished.
    fn commit(&mut self);
}

/// A record that was read without a lock on its device.
#[derive(Debug)]
pub struct StoredRecord<R> {
    /// The content of the record.
    pub record: R,
    /// Whether another command works on the device now.
    pub live: bool,
}

impl<R: Record> StoredRecord<R> {
    /// Whether the command that wrote the record ended before it finished its work.
    pub fn is_stale(&self) -> bool {
        !self.live && !self.record.is_committed()
    }
}

/// A lock on a device: no other command works on the device until this value is dropped.
#[derive(Debug)]
pub struct DeviceLock<R: Record> {
    bdf: Bdf,
    path: PathBuf,
    record: Option<R>,
    /// Whether the file was already removed.
    removed: bool,
    /// The open lock file; none after the lock was released.
    lock: Option<FileLock>,
}

impl<R: Record> DeviceLock<R> {
    /// Locks the device at `bdf` and reads its record.
    ///
    /// Errors: `conflict` with code `RESERVED` while another command works on the device; `invalid_input` for a
    /// damaged record; `permission`, `io`.
    pub fn take(host: &Host, bdf: Bdf) -> Result<Self> {
        let path = make_folder(host, R::FOLDER)?.join(bdf.to_string());
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).mode(0o600);
        options.custom_flags(OFlag::O_NOFOLLOW.bits());
        let lock = GLANCE.wait_for(|| {
            let file = options.open(&path).at("open", &path)?;
            match FileLock::try_lock(file, LockKind::Exclusive).at("lock", &path)? {
                TryLock::Locked(lock) if is_at(&lock, &path) => Ok(Some(lock)),
                // The file was replaced or removed after it was opened: another file has the name now.
                TryLock::Locked(_) | TryLock::Busy(_) => Ok(None),
            }
        });
        let lock = lock?.ok_or_else(|| reserved(bdf))?;
        let record = read(&lock, &path, bdf)?;
        Ok(Self { bdf, path, record, removed: false, lock: Some(lock) })
    }

    /// The PCI address of the device.
    pub fn bdf(&self) -> Bdf {
        self.bdf
    }

    /// The record of the device, if it has one.
    pub fn record(&self) -> Option<&R> {
        self.record.as_ref()
    }

    /// The record as a [`StoredRecord`] that no other command works on.
    pub fn stored(&self) -> Option<StoredRecord<R>> {
        self.record.clone().map(|record| StoredRecord { record, live: false })
    }

    /// Writes the record in place of the old one. A kill leaves either the old record or the new one.
    ///
    /// Errors: `permission`, `io`.
    pub fn write(&mut self, record: R) -> Result<()> {
        if self.record.as_ref() == Some(&record) {
            return Ok(());
        }
        let part = self.part();
        let mut options = OpenOptions::new();
        let file = options.write(true).create(true).truncate(true).mode(0o600).open(&part);
        let file = file.at("create", &part)?;
        let TryLock::Locked(lock) =
            FileLock::try_lock(file, LockKind::Exclusive).at("lock", &part)?
        else {
            return Err(reserved(self.bdf));
        };
        let text = serde_json::to_string_pretty(&record).unwrap_or_default() + "\n";
        (&*lock).write_all(text.as_bytes()).at("write", &part)?;
        // The state that a record describes can outlive a loss of power.
        lock.sync_all().at("sync", &part)?;
        fs::rename(&part, &self.path).at("rename to", &self.path)?;
        self.record = Some(record);
        if let Some(replaced) = self.lock.replace(lock) {
            replaced.unlock();
        }
        sysroot::flush(self.path.parent().unwrap_or(&self.path))
    }

    /// Ignores the record, which is about another device, and removes it when the lock is dropped.
    pub fn discard_record(&mut self) {
        self.record = None;
    }

    /// Marks the work as finished. Does nothing for a device without a record.
    ///
    /// Errors: `permission`, `io`.
    pub fn commit(mut self) -> Result<()> {
        match self.record.clone() {
            Some(mut record) => {
                record.commit();
                self.write(record)
            }
            None => Ok(()),
        }
    }

    /// Removes the record, because the device is back in its former state.
    ///
    /// Errors: `permission`, `io`.
    pub fn forget(mut self) -> Result<()> {
        self.remove()
    }

    fn remove(&mut self) -> Result<()> {
        self.removed = true;
        for path in [self.part(), self.path.clone()] {
            match fs::remove_file(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                removed => removed.at("remove", &path)?,
            }
        }
        Ok(())
    }

    /// The temporary file that replaces the record. A kill can leave it behind.
    fn part(&self) -> PathBuf {
        self.path.with_file_name(format!(".{}.commit", self.bdf))
    }
}

impl<R: Record> Drop for DeviceLock<R> {
    fn drop(&mut self) {
        if self.record.is_none() && !self.removed {
            let _ = self.remove();
        }
        if let Some(lock) = self.lock.take() {
            lock.unlock();
        }
    }
}

/// The PCI addresses of the devices that have a file in the directory of this kind of record, sorted.
///
/// Errors: `permission` or `io` when the directory cannot be listed.
pub fn devices<R: Record>(host: &Host) -> Result<Vec<Bdf>> {
    let folder = host.path(R::FOLDER);
    let entries = match fs::read_dir(&folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.at("read", &folder)?,
    };
    let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    let mut devices: Vec<Bdf> = names.filter_map(|name| name.parse().ok()).collect();
    devices.sort_unstable();
    Ok(devices)
}

/// Every record, sorted by PCI address, with an error in the place of each record that cannot be read.
///
/// Errors: `permission` or `io` when the directory cannot be listed.
pub fn all<R: Record>(host: &Host) -> Result<Vec<Result<StoredRecord<R>>>> {
    let devices = devices::<R>(host)?.into_iter();
    Ok(devices.filter_map(|bdf| load(host, bdf).transpose()).collect())
}

/// The record of one device, read without a lock on the device.
///
/// Errors: `conflict` with code `RESERVED` while a command has the device locked and has not written a record
/// yet; `invalid_input` for a damaged record; `permission`, `io`.
pub fn load<R: Record>(host: &Host, bdf: Bdf) -> Result<Option<StoredRecord<R>>> {
    let path = host.path(R::FOLDER).join(bdf.to_string());
    let stored = GLANCE.wait_for(|| {
        let file = match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Some(None)),
            file => file.at("open", &path)?,
        };
        // A shared lock: two readers do not take each other for a command at work. The lock is held while the file
        // is read, so that no command changes the record during the read.
        match FileLock::try_lock(file, LockKind::Shared).at("lock", &path)? {
            TryLock::Locked(lock) if is_at(&lock, &path) => {
                let record = read(&lock, &path, bdf);
                lock.unlock();
                Ok(Some(record?.map(|record| StoredRecord { record, live: false })))
            }
            TryLock::Locked(_) => Ok(None),
            TryLock::Busy(file) => {
                let record = read(&file, &path, bdf)?.ok_or_else(|| reserved(bdf))?;
                Ok(Some(Some(StoredRecord { record, live: true })))
            }
        }
    });
    stored?.ok_or_else(|| reserved(bdf))
}

/// The error for a device whose record forbids a change: `conflict` with code `RESERVED`. Either another command
/// works on the device now, or a command ended before it finished its work.
pub fn reserved_error<R: Record>(stored: &StoredRecord<R>) -> Error {
    let bdf = stored.record.bdf();
    if stored.live {
        return reserved(bdf);
    }
    Error::conflict(format!("an earlier command ended before it finished its work on {bdf}"))
        .code(Code::Reserved)
        .hint("tdx-gpu unbind --stale")
}

fn reserved(bdf: Bdf) -> Error {
    Error::conflict(format!("another command is working on {bdf}"))
        .code(Code::Reserved)
        .hint("run this command again after the other command has ended")
}

/// Reads the record in an open file; none for an empty file.
fn read<R: Record>(mut file: &File, path: &Path, bdf: Bdf) -> Result<Option<R>> {
    let damaged = |why: &str| {
        Error::invalid_input(format!("the record {} of device {bdf} is damaged", path.display()))
            .because(why.to_owned())
            .hint("remove the file; tdx-gpu unbind then lets the kernel choose a driver for the device")
    };
    let mut text = String::new();
    file.read_to_string(&mut text).at("read", path)?;
    if text.is_empty() {
        return Ok(None);
    }
    let record: R = serde_json::from_str(&text).map_err(|error| damaged(&error.to_string()))?;
    match record.bdf() == bdf {
        true => Ok(Some(record)),
        false => Err(damaged(&format!("the record names device {}", record.bdf()))),
    }
}

/// Whether the file at `path` is still the open file.
fn is_at(file: &File, path: &Path) -> bool {
    let inode = |file: io::Result<fs::Metadata>| file.map(|file| (file.dev(), file.ino())).ok();
    inode(file.metadata()).is_some_and(|open| inode(path.symlink_metadata()) == Some(open))
}

/// Creates the directory of the records, which only root can read and write, if it is absent, and returns its path.
fn make_folder(host: &Host, folder: &str) -> Result<PathBuf> {
    let folder = host.path(folder);
    DirBuilder::new().recursive(true).mode(0o700).create(&folder).at("create", &folder)?;
    let owner = folder.symlink_metadata().at("examine", &folder)?.uid();
    match owner == nix::unistd::geteuid().as_raw() {
        true => Ok(folder),
        false => Err(Error::permission(format!(
            "directory {} belongs to another user",
            folder.display()
        ))),
    }
}
