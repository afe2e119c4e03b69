//! Creations under way: a held lock says "not an orphan yet".
//!
//! A volume is locked under its name before it exists and until something refers to it. The kernel
//! drops the lock with the process, however it dies, so a leftover is known at once and by nothing as
//! vague as age.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use common::host::Host;
use common::{Error, IoContext, Result};
use rustix::fs::{FlockOperation, flock};

/// Where the locks are. Anyone may create there, as in `/run/lock` itself: members of the group
/// libvirt make overlays too.
const FOLDER: &str = "/run/lock/tdx";

/// A creation under way. It ends when this is dropped.
#[derive(Debug)]
pub struct InFlight {
    path: PathBuf,
    _lock: File,
}

impl InFlight {
    /// Says that the volume `name` is about to be made.
    ///
    /// Errors: `permission` or `io` when the lock cannot be had; `conflict` when another process makes
    /// a volume of that name.
    pub fn begin(host: &Host, name: &str) -> Result<Self> {
        let folder = host.path(FOLDER);
        make_folder(&folder)?;
        let path = folder.join(name);
        loop {
            let mut options = OpenOptions::new();
            let lock = options.write(true).create(true).truncate(false).open(&path);
            let lock = lock.at("create the lock", &path)?;
            match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {}
                Err(rustix::io::Errno::WOULDBLOCK) => {
                    return Err(Error::conflict(format!(
                        "volume '{name}' is being made by another process"
                    )));
                }
                Err(error) => return Err(error).at("lock", &path),
            }
            // A cleanup may have taken the file away between open and lock.
            if lock.metadata().at("look at", &path)?.nlink() > 0 {
                return Ok(Self { path, _lock: lock });
            }
        }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// Whether some process is making the volume `name`. A stale lock file is taken away.
///
/// Errors: `io` or `permission` when that cannot be told.
pub fn is_in_flight(host: &Host, name: &str) -> Result<bool> {
    let path = host.path(FOLDER).join(name);
    let lock = match File::open(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        opened => opened.at("open the lock", &path)?,
    };
    match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {
            let _ = fs::remove_file(&path);
            Ok(false)
        }
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(true),
        Err(error) => Err(error).at("lock", &path),
    }
}

fn make_folder(folder: &Path) -> Result<()> {
    match fs::create_dir(folder) {
        // Not by the umask: others must be able to make their locks here.
        Ok(()) => fs::set_permissions(folder, Permissions::from_mode(0o1777)).at("open up", folder),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            fs::create_dir_all(folder.parent().unwrap_or(folder)).at("create", folder)?;
            make_folder(folder)
        }
        Err(error) => Err(error).at("create", folder),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAME: &str = "overlay.abcDEF012345678.qcow2";

    #[test]
    fn a_lock_lasts_as_long_as_its_holder() {
        let root = tempfile::tempdir().unwrap();
        let host = Host::new(root.path());
        assert!(!is_in_flight(&host, NAME).unwrap());
        let held = InFlight::begin(&host, NAME).unwrap();
        assert!(is_in_flight(&host, NAME).unwrap());
        assert!(InFlight::begin(&host, NAME).is_err());
        drop(held);
        assert!(!is_in_flight(&host, NAME).unwrap());
        assert_eq!(fs::read_dir(host.path(FOLDER)).unwrap().count(), 0);
    }

    #[test]
    fn a_dead_holders_file_is_no_lock() {
        let root = tempfile::tempdir().unwrap();
        let host = Host::new(root.path());
        drop(InFlight::begin(&host, NAME).unwrap());
        fs::write(host.path(FOLDER).join(NAME), "").unwrap();
        assert!(!is_in_flight(&host, NAME).unwrap());
        assert!(!host.path(FOLDER).join(NAME).exists());
    }
}
