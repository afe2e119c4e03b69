//! Locks on devices, and the records that go with them.
//!
//! Each kind of record has a directory with one file a device. The file is the lock: a process that works on
//! a device holds its file locked, and the kernel releases the lock when the process ends. A file without
//! content locks a device of which nothing is recorded. A record is written before the device is touched and
//! removed when the device is as it was.
//!
//! What is decided about a device is decided under its lock, from the record in the locked file: what was
//! seen before the lock was taken can be another command's work.

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

/// How long a file may be locked by a process that only reads it.
const GLANCE: Patience = Patience {
    limit: Duration::from_millis(200),
    pause: Duration::from_millis(5),
    is_interruptible: false,
};

/// What is recorded of a device.
pub trait Record: Clone + PartialEq + Serialize + DeserializeOwned {
    /// The directory of the records of this kind.
    const FOLDER: &'static str;

    /// The device's address.
    fn bdf(&self) -> Bdf;

    /// Whether the work that the record was written for was finished.
    fn is_committed(&self) -> bool;

    /// Marks the work as finished.
    fn commit(&mut self);
}

/// A record as it was read without a lock on its device.
#[derive(Debug)]
pub struct StoredRecord<R> {
    /// What it says.
    pub record: R,
    /// Whether another command works on the device.
    pub live: bool,
}

impl<R: Record> StoredRecord<R> {
    /// Whether the command that wrote the record ended before its work did.
    pub fn is_stale(&self) -> bool {
        !self.live && !self.record.is_committed()
    }
}

/// A device that no other command works on until this is dropped.
#[derive(Debug)]
pub struct DeviceLock<R: Record> {
    bdf: Bdf,
    path: PathBuf,
    record: Option<R>,
    /// Whether the file is gone already.
    removed: bool,
    /// None once it is released.
    lock: Option<FileLock>,
}

impl<R: Record> DeviceLock<R> {
    /// Locks the device at `bdf`, and reads what is recorded of it.
    ///
    /// Errors: `conflict` with code `RESERVED` while another command works on it; `invalid_input` for a
    /// record that cannot be understood; `permission`, `io`.
    pub fn take(host: &Host, bdf: Bdf) -> Result<Self> {
        let path = make_folder(host, R::FOLDER)?.join(bdf.to_string());
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).mode(0o600);
        options.custom_flags(OFlag::O_NOFOLLOW.bits());
        let lock = GLANCE.wait_for(|| {
            let file = options.open(&path).at("open", &path)?;
            match FileLock::try_lock(file, LockKind::Exclusive).at("lock", &path)? {
                TryLock::Locked(lock) if is_at(&lock, &path) => Ok(Some(lock)),
                // It was replaced or removed after it was opened: another file has the name now.
                TryLock::Locked(_) | TryLock::Busy(_) => Ok(None),
            }
        });
        let lock = lock?.ok_or_else(|| reserved(bdf))?;
        let record = read(&lock, &path, bdf)?;
        Ok(Self { bdf, path, record, removed: false, lock: Some(lock) })
    }

    /// The device's address.
    pub fn bdf(&self) -> Bdf {
        self.bdf
    }

    /// What is recorded of the device.
    pub fn record(&self) -> Option<&R> {
        self.record.as_ref()
    }

    /// The record as one that was stored and is nobody else's.
    pub fn stored(&self) -> Option<StoredRecord<R>> {
        self.record.clone().map(|record| StoredRecord { record, live: false })
    }

    /// Records the device, in place of what was recorded. A kill leaves the old record or the new one.
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
        // What a record is about can outlive a loss of power.
        lock.sync_all().at("flush", &part)?;
        fs::rename(&part, &self.path).at("rename to", &self.path)?;
        self.record = Some(record);
        if let Some(replaced) = self.lock.replace(lock) {
            replaced.unlock();
        }
        sysroot::flush(self.path.parent().unwrap_or(&self.path))
    }

    /// Ignores what is recorded, since it is of another device, and removes it in the end.
    pub fn discard_record(&mut self) {
        self.record = None;
    }

    /// Marks the work as finished. Does nothing where nothing is recorded.
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

    /// Removes the record: the device is as it was.
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

    /// What is to replace the record. A kill can leave it.
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

/// The devices that have a file in the directory of this kind of record, sorted by address.
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

/// Every record, sorted by address, and for each that cannot be read an error.
///
/// Errors: `permission` or `io` when the directory cannot be listed.
pub fn all<R: Record>(host: &Host) -> Result<Vec<Result<StoredRecord<R>>>> {
    let devices = devices::<R>(host)?.into_iter();
    Ok(devices.filter_map(|bdf| of(host, bdf).transpose()).collect())
}

/// The record of one device, read without a lock.
///
/// Errors: `conflict` with code `RESERVED` while a command has the device locked and has recorded nothing
/// yet; `invalid_input` for a record that cannot be understood; `permission`, `io`.
pub fn of<R: Record>(host: &Host, bdf: Bdf) -> Result<Option<StoredRecord<R>>> {
    let path = host.path(R::FOLDER).join(bdf.to_string());
    let stored = GLANCE.wait_for(|| {
        let file = match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Some(None)),
            file => file.at("open", &path)?,
        };
        // Shared: those who only read do not take each other for a command at work. The lock is held while
        // the file is read, so that no command changes the record meanwhile.
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

/// Why a record that is there, live or stale, is not to be touched: `conflict` with code `RESERVED`.
pub fn taken<R: Record>(stored: &StoredRecord<R>) -> Error {
    let bdf = stored.record.bdf();
    if stored.live {
        return reserved(bdf);
    }
    Error::conflict(format!("a command that worked on {bdf} ended before its work did"))
        .code(Code::Reserved)
        .hint("tdx-gpu unbind --stale")
}

fn reserved(bdf: Bdf) -> Error {
    Error::conflict(format!("another command works on {bdf}"))
        .code(Code::Reserved)
        .hint("run this command again when the other one has ended")
}

/// What an open file says of a device; none for a file without content.
fn read<R: Record>(mut file: &File, path: &Path, bdf: Bdf) -> Result<Option<R>> {
    let damaged = |why: &str| {
        Error::invalid_input(format!("the record {} is damaged", path.display()))
            .because(why.to_owned())
            .hint("remove it: unbinding then gives the device to whatever driver wants it")
    };
    let mut text = String::new();
    file.read_to_string(&mut text).at("read", path)?;
    if text.is_empty() {
        return Ok(None);
    }
    let record: R = serde_json::from_str(&text).map_err(|error| damaged(&error.to_string()))?;
    match record.bdf() == bdf {
        true => Ok(Some(record)),
        false => Err(damaged(&format!("it is of {}", record.bdf()))),
    }
}

/// Whether an open file is still the one that has this name.
fn is_at(file: &File, path: &Path) -> bool {
    let inode = |file: io::Result<fs::Metadata>| file.map(|file| (file.dev(), file.ino())).ok();
    inode(file.metadata()).is_some_and(|open| inode(path.symlink_metadata()) == Some(open))
}

/// The directory of the records, which only root can read or write.
fn make_folder(host: &Host, folder: &str) -> Result<PathBuf> {
    let folder = host.path(folder);
    DirBuilder::new().recursive(true).mode(0o700).create(&folder).at("create", &folder)?;
    let owner = folder.symlink_metadata().at("look at", &folder)?.uid();
    match owner == nix::unistd::geteuid().as_raw() {
        true => Ok(folder),
        false => Err(Error::permission(format!("{} is another user's", folder.display()))),
    }
}
