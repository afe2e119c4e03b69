//! The record of devices that were taken from the host: what drove them, and who is at it.
//!
//! One file a device below `/run/tdx/bound`, written before the device is touched and removed when it is
//! as it was. It survives the tool, not a reboot, just as the binding. While whoever took the device
//! still works on it, the file is locked; the kernel drops the lock with the process, so what a dead one
//! left half done is known at once.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, Flock, FlockArg, OFlag};
use nix::unistd::linkat;
use serde::{Deserialize, Serialize};

use crate::code::Code;
use crate::error::{Error, IoContext, Result};
use crate::host::Host;
use crate::pci::Bdf;

const FOLDER: &str = "/run/tdx/bound";

/// What tells a device from another one that is later found at its address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Vendor id.
    pub vendor: Option<u16>,
    /// Device id.
    pub device: Option<u16>,
    /// Vendor id of the card.
    pub subsystem_vendor: Option<u16>,
    /// Device id of the card.
    pub subsystem_device: Option<u16>,
    /// Class code.
    pub class: Option<u32>,
    /// Device serial number, where it has one.
    pub serial: Option<String>,
}

/// A device that was taken from the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Its address.
    pub bdf: Bdf,
    /// What it is.
    pub identity: Identity,
    /// The driver that had it.
    pub driver: Option<String>,
    /// What its `driver_override` was.
    pub driver_override: Option<String>,
    /// The VFIO driver it was given to.
    pub bound_to: String,
    /// The UUID of the domain it was taken for; none when it was taken by itself.
    pub domain: Option<String>,
    /// Whether taking it was finished.
    pub committed: bool,
}

/// A record that was found.
#[derive(Debug)]
pub struct Found {
    /// What it says.
    pub record: Record,
    /// Whether somebody is at work on the device.
    pub live: bool,
}

impl Found {
    /// Whether taking the device was not finished, and never will be.
    pub fn is_stale(&self) -> bool {
        !self.live && !self.record.committed
    }
}

/// A record that is being made, ours alone until it is committed or dropped.
#[derive(Debug)]
pub struct Lease {
    /// What it says.
    pub record: Record,
    path: PathBuf,
    _lock: Flock<File>,
}

impl Lease {
    /// Records a device before it is touched.
    ///
    /// Errors: `conflict` with code `RESERVED` when there is a record already; `permission`, `io`.
    pub fn begin(host: &Host, record: Record) -> Result<Self> {
        let folder = make_folder(host)?;
        let path = folder.join(record.bdf.to_string());
        // Complete and locked from the moment it has a name; and never over another's.
        let mut nameless = OpenOptions::new();
        nameless.write(true).mode(0o600).custom_flags(OFlag::O_TMPFILE.bits());
        let lock = write(nameless.open(&folder), &path, &record)?;
        let file = format!("/proc/self/fd/{}", lock.as_raw_fd());
        match linkat(AT_FDCWD, file.as_str(), AT_FDCWD, &path, AtFlags::AT_SYMLINK_FOLLOW) {
            Err(Errno::EEXIST) => Err(reserved(record.bdf, "is recorded as taken already")),
            linked => linked.map_err(io::Error::from).at("create", &path).map(|()| Self {
                record,
                path,
                _lock: lock,
            }),
        }
    }

    /// Takes up a record that is there, to undo it.
    ///
    /// Errors: `conflict` with code `RESERVED` when somebody is at work on the device.
    pub fn resume(host: &Host, record: Record) -> Result<Self> {
        let path = host.path(FOLDER).join(record.bdf.to_string());
        let file = OpenOptions::new().read(true).open(&path).at("open", &path)?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => Ok(Self { record, path, _lock: lock }),
            Err((_, Errno::EWOULDBLOCK)) => {
                Err(reserved(record.bdf, "is being worked on by another command"))
            }
            Err((_, error)) => Err(io::Error::from(error)).at("lock", &path),
        }
    }

    /// Says that taking the device is finished.
    pub fn commit(mut self, domain: Option<&str>) -> Result<()> {
        self.record.committed = true;
        self.record.domain = domain.map(str::to_owned);
        let part = self.part();
        let mut options = OpenOptions::new();
        let file = options.write(true).create(true).truncate(true).mode(0o600).open(&part);
        let lock = write(file, &part, &self.record)?;
        fs::rename(&part, &self.path).at("rename to", &self.path)?;
        drop(lock);
        Ok(())
    }

    /// The device is as it was: nothing is to be remembered.
    pub fn forget(self) -> Result<()> {
        for path in [self.part(), self.path] {
            match fs::remove_file(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                removed => removed.at("remove", &path)?,
            }
        }
        Ok(())
    }

    /// What is to replace the record. A kill can leave it.
    fn part(&self) -> PathBuf {
        self.path.with_file_name(format!(".{}.commit", self.record.bdf))
    }
}

/// Every record, sorted by address, and for each that cannot be understood an error.
///
/// Errors: `permission` or `io` when the folder cannot be listed.
pub fn all(host: &Host) -> Result<Vec<Result<Found>>> {
    let folder = host.path(FOLDER);
    let entries = match fs::read_dir(&folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.at("read", &folder)?,
    };
    let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    let mut devices: Vec<Bdf> = names.filter_map(|name| name.parse().ok()).collect();
    devices.sort_unstable();
    Ok(devices.into_iter().filter_map(|bdf| of(host, bdf).transpose()).collect())
}

/// The record of one device, if there is one.
///
/// Errors: `invalid_input` for a record that cannot be understood; `permission`, `io`.
pub fn of(host: &Host, bdf: Bdf) -> Result<Option<Found>> {
    let path = host.path(FOLDER).join(bdf.to_string());
    let file = match File::open(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => file.at("open", &path)?,
    };
    let damaged = |why: &str| {
        Error::invalid_input(format!("the record {} is damaged", path.display()))
            .because(why.to_owned())
            .hint("remove it: unbinding then gives the device to whatever driver wants it")
    };
    let text = fs::read_to_string(&path).at("read", &path)?;
    let record: Record =
        serde_json::from_str(&text).map_err(|error| damaged(&error.to_string()))?;
    if record.bdf != bdf {
        return Err(damaged(&format!("it is of {}", record.bdf)));
    }
    let live = Flock::lock(file, FlockArg::LockExclusiveNonblock).is_err();
    Ok(Some(Found { record, live }))
}

fn reserved(bdf: Bdf, how: &str) -> Error {
    Error::conflict(format!("{bdf} {how}"))
        .code(Code::Reserved)
        .hint("tdx-gpu unbind gives it back; with --stale, what dead commands left")
}

fn write(file: io::Result<File>, path: &Path, record: &Record) -> Result<Flock<File>> {
    let file = file.at("create", path)?;
    let mut lock = Flock::lock(file, FlockArg::LockExclusiveNonblock)
        .map_err(|(_, error)| io::Error::from(error))
        .at("lock", path)?;
    let text = serde_json::to_string_pretty(record).unwrap_or_default() + "\n";
    lock.write_all(text.as_bytes()).at("write", path)?;
    Ok(lock)
}

/// The folder of the records, which only root can read or write.
fn make_folder(host: &Host) -> Result<PathBuf> {
    let folder = host.path(FOLDER);
    DirBuilder::new().recursive(true).mode(0o700).create(&folder).at("create", &folder)?;
    let owner = folder.symlink_metadata().at("look at", &folder)?.uid();
    match owner == nix::unistd::geteuid().as_raw() {
        true => Ok(folder),
        false => Err(Error::permission(format!("{} is another user's", folder.display()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(function: u8) -> Record {
        let identity = Identity {
            vendor: Some(0x10de),
            device: Some(0x2330),
            subsystem_vendor: None,
            subsystem_device: None,
            class: Some(0x030200),
            serial: Some("48b02d1234567890".to_owned()),
        };
        Record {
            bdf: Bdf { domain: 0, bus: 0x17, device: 0, function },
            identity,
            driver: Some("nvidia".to_owned()),
            driver_override: None,
            bound_to: "vfio-pci".to_owned(),
            domain: None,
            committed: false,
        }
    }

    #[test]
    fn a_record_is_live_then_stale_or_committed() {
        let root = tempfile::tempdir().unwrap();
        let host = Host::new(root.path());
        assert!(all(&host).unwrap().is_empty());
        let lease = Lease::begin(&host, record(0)).unwrap();
        let found = of(&host, record(0).bdf).unwrap().unwrap();
        assert!((found.live, found.is_stale()) == (true, false) && found.record == record(0));
        assert_eq!(Lease::begin(&host, record(0)).unwrap_err().kind(), crate::ErrorKind::Conflict);
        assert!(Lease::resume(&host, record(0)).is_err());

        drop(lease);
        assert!(of(&host, record(0).bdf).unwrap().unwrap().is_stale());
        let lease = Lease::resume(&host, record(0)).unwrap();
        lease.commit(Some("uuid")).unwrap();
        let found = of(&host, record(0).bdf).unwrap().unwrap();
        assert!((found.live, found.is_stale()) == (false, false));
        assert_eq!(found.record.domain.as_deref(), Some("uuid"));

        Lease::begin(&host, record(1)).unwrap().forget().unwrap();
        assert_eq!(all(&host).unwrap().len(), 1);
        let names = fs::read_dir(host.path(FOLDER)).unwrap().count();
        assert_eq!(names, 1, "something is left");
    }

    #[test]
    fn damage_is_an_error_of_that_record_alone() {
        let root = tempfile::tempdir().unwrap();
        let host = Host::new(root.path());
        drop(Lease::begin(&host, record(0)).unwrap());
        drop(Lease::begin(&host, record(1)).unwrap());
        let path = |function| host.path(FOLDER).join(record(function).bdf.to_string());
        fs::write(path(0), "{\"bdf\":").unwrap();
        fs::copy(path(1), host.path(FOLDER).join("0000:18:00.0")).unwrap();
        let all = all(&host).unwrap();
        let good: Vec<bool> = all.iter().map(Result::is_ok).collect();
        assert_eq!(good, [false, true, false]);
    }
}
