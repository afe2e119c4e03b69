//! Records of devices, each worked on by one process at a time.
//!
//! One file a device in a folder for each kind of record, written before the device is touched and removed
//! when it is as it was. While a process works on a device it holds the record locked; the kernel drops
//! the lock with the process, so what a dead one left half done is known at once.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, Flock, FlockArg, OFlag};
use nix::unistd::linkat;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::code::Code;
use crate::error::{Error, IoContext, Result};
use crate::host::{self, Host};
use crate::pci::Bdf;

/// How long a record that is locked may only be being looked at.
const GLANCE: Duration = Duration::from_millis(200);

/// What is recorded of a device.
pub trait Record: Serialize + DeserializeOwned {
    /// Where records of this kind are.
    const FOLDER: &'static str;

    /// The device's address.
    fn bdf(&self) -> Bdf;

    /// Whether the work it was written for was finished.
    fn is_committed(&self) -> bool;

    /// The work is finished.
    fn commit(&mut self);
}

/// A record that was found.
#[derive(Debug)]
pub struct Found<R> {
    /// What it says.
    pub record: R,
    /// Whether somebody is at work on the device.
    pub live: bool,
}

impl<R: Record> Found<R> {
    /// Whether the work was not finished, and never will be.
    pub fn is_stale(&self) -> bool {
        !self.live && !self.record.is_committed()
    }
}

/// A record that is being made, ours alone until it is committed or dropped.
#[derive(Debug)]
pub struct Lease<R> {
    /// What it says.
    pub record: R,
    path: PathBuf,
    _lock: Flock<File>,
}

impl<R: Record> Lease<R> {
    /// Records a device before it is touched.
    ///
    /// Errors: `conflict` with code `RESERVED` when there is a record already; `permission`, `io`.
    pub fn begin(host: &Host, record: R) -> Result<Self> {
        let folder = make_folder(host, R::FOLDER)?;
        let path = folder.join(record.bdf().to_string());
        // Complete and locked from the moment it has a name; and never over another's.
        let mut nameless = OpenOptions::new();
        nameless.write(true).mode(0o600).custom_flags(OFlag::O_TMPFILE.bits());
        let (lock, linked) = match nameless.open(&folder) {
            // overlayfs before Linux 6.2, NFS: then a kill can leave a file that nobody minds.
            Err(error) if error.kind() == io::ErrorKind::Unsupported => {
                let part = folder.join(format!(".{}.{}", record.bdf(), std::process::id()));
                let mut named = OpenOptions::new();
                let file = named.write(true).create(true).truncate(true).mode(0o600).open(&part);
                let lock = write(file, &part, &record)?;
                let linked = fs::hard_link(&part, &path);
                fs::remove_file(&part).at("remove", &part)?;
                (lock, linked)
            }
            file => {
                let lock = write(file, &path, &record)?;
                let file = format!("/proc/self/fd/{}", lock.as_raw_fd());
                let follow = AtFlags::AT_SYMLINK_FOLLOW;
                let linked = linkat(AT_FDCWD, file.as_str(), AT_FDCWD, &path, follow);
                (lock, linked.map_err(io::Error::from))
            }
        };
        match linked {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                Err(reserved(record.bdf(), "is recorded as taken already"))
            }
            linked => {
                linked.at("create", &path)?;
                host::flush(&folder)?;
                Ok(Self { record, path, _lock: lock })
            }
        }
    }

    /// Takes up a record that is there, to undo it.
    ///
    /// Errors: `conflict` with code `RESERVED` when somebody is at work on the device.
    pub fn resume(host: &Host, record: R) -> Result<Self> {
        let path = host.path(R::FOLDER).join(record.bdf().to_string());
        let end = Instant::now() + GLANCE;
        loop {
            let file = File::open(&path).at("open", &path)?;
            match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(lock) if is_at(&lock, &path) => return Ok(Self { record, path, _lock: lock }),
                Err((_, Errno::EWOULDBLOCK)) if Instant::now() < end => {
                    std::thread::sleep(Duration::from_millis(5));
                }
                // Committed or forgotten between opening and locking, it is another one's by now.
                Ok(_) | Err((_, Errno::EWOULDBLOCK)) => {
                    return Err(reserved(record.bdf(), "is being worked on by another command"));
                }
                Err((_, error)) => return Err(io::Error::from(error)).at("lock", &path),
            }
        }
    }

    /// Says that the work is finished.
    pub fn commit(mut self) -> Result<()> {
        self.record.commit();
        let part = self.part();
        let mut options = OpenOptions::new();
        let file = options.write(true).create(true).truncate(true).mode(0o600).open(&part);
        let lock = write(file, &part, &self.record)?;
        fs::rename(&part, &self.path).at("rename to", &self.path)?;
        drop(lock);
        host::flush(self.path.parent().unwrap_or(&self.path))
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
        self.path.with_file_name(format!(".{}.commit", self.record.bdf()))
    }
}

/// Every record, sorted by address, and for each that cannot be understood an error.
///
/// Errors: `permission` or `io` when the folder cannot be listed.
pub fn all<R: Record>(host: &Host) -> Result<Vec<Result<Found<R>>>> {
    let folder = host.path(R::FOLDER);
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
pub fn of<R: Record>(host: &Host, bdf: Bdf) -> Result<Option<Found<R>>> {
    let path = host.path(R::FOLDER).join(bdf.to_string());
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
    let record: R = serde_json::from_str(&text).map_err(|error| damaged(&error.to_string()))?;
    if record.bdf() != bdf {
        return Err(damaged(&format!("it is of {}", record.bdf())));
    }
    // Shared: those who only look do not take each other for somebody at work.
    let live = Flock::lock(file, FlockArg::LockSharedNonblock).is_err();
    Ok(Some(Found { record, live }))
}

/// Why a record that is there, live or stale, is not to be touched: `conflict` with code `RESERVED`.
pub fn taken<R: Record>(found: &Found<R>) -> Error {
    let (how, hint) = match found.live {
        true => ("another command is at work on", "wait for it to end"),
        false => ("a command died while it was at work on", "tdx-gpu unbind --stale repairs it"),
    };
    Error::conflict(format!("{how} {}", found.record.bdf())).code(Code::Reserved).hint(hint)
}

fn reserved(bdf: Bdf, how: &str) -> Error {
    Error::conflict(format!("{bdf} {how}"))
        .code(Code::Reserved)
        .hint("tdx-gpu unbind gives it back; with --stale, what dead commands left")
}

fn write(file: io::Result<File>, path: &Path, record: &impl Record) -> Result<Flock<File>> {
    let file = file.at("create", path)?;
    let mut lock = Flock::lock(file, FlockArg::LockExclusiveNonblock)
        .map_err(|(_, error)| io::Error::from(error))
        .at("lock", path)?;
    let text = serde_json::to_string_pretty(record).unwrap_or_default() + "\n";
    lock.write_all(text.as_bytes()).at("write", path)?;
    // What it is about can outlive a loss of power.
    lock.sync_all().at("flush", path)?;
    Ok(lock)
}

/// Whether an open file is still the one that has this name.
fn is_at(file: &File, path: &Path) -> bool {
    let inode = |file: io::Result<fs::Metadata>| file.map(|file| (file.dev(), file.ino())).ok();
    inode(file.metadata()).is_some_and(|open| inode(path.metadata()) == Some(open))
}

/// The folder of the records, which only root can read or write.
fn make_folder(host: &Host, folder: &str) -> Result<PathBuf> {
    let folder = host.path(folder);
    DirBuilder::new().recursive(true).mode(0o700).create(&folder).at("create", &folder)?;
    let owner = folder.symlink_metadata().at("look at", &folder)?.uid();
    match owner == nix::unistd::geteuid().as_raw() {
        true => Ok(folder),
        false => Err(Error::permission(format!("{} is another user's", folder.display()))),
    }
}
