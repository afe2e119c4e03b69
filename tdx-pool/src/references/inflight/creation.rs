//! The lock of a volume that is being created.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use common::cli::log;
use common::system::file_lock::{FileLock, LockKind, TryLock};
use common::system::sysroot::Host;
use common::{Error, IoContext, Result};

use super::directory::{LockDirectory, LockOwner, take_over};
use super::lock_file::{counts, is_another_users, is_locked_in, lock_file};
use super::membership::{is_root, prove_membership};

/// A lock on the name of a volume that is being created. The lock lasts until this value is dropped.
#[derive(Debug)]
pub struct InFlight {
    pub(super) directory: LockDirectory,
    pub(super) name: String,
    _lock: FileLock,
}

impl InFlight {
    /// Locks the name of a volume that is about to be created.
    ///
    /// Errors: `permission` or `io` when the lock cannot be taken; `conflict` when another process is creating a volume
    /// with that name.
    pub fn begin(host: &Host, name: &str) -> Result<Self> {
        let directory = LockDirectory::make(host)?;
        let path = directory.path_of(name);
        loop {
            let lock = directory.open_or_create(name).at("create the lock", &path)?;
            expect_own(&lock.metadata().at("examine", &path)?, &path)?;
            let TryLock::Locked(lock) = lock_file(lock, LockKind::Exclusive, &path)? else {
                return Err(Error::conflict(format!(
                    "another process is creating volume '{name}'"
                )));
            };
            if !is_root() {
                prove_membership(&lock);
            }
            // A cleanup may have removed the file between open and lock.
            if lock.metadata().at("examine", &path)?.nlink() > 0 {
                return Ok(Self { directory, name: name.to_owned(), _lock: lock });
            }
        }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.directory.remove(&self.name);
    }
}

/// Whether a process is creating the volume `name`, or keeps it from deletion. A process other than root cannot tell a
/// live lock of another user from a lock that an ended process left, and treats both as live.
///
/// Errors: `io` or `permission` when the lock cannot be examined.
pub fn is_in_flight(host: &Host, name: &str) -> Result<bool> {
    for owner in LockOwner::ALL {
        if is_locked_in(host, owner, name, LockKind::Exclusive)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Removes the lock files of processes that have ended, and lock files that have no effect. A lock file that cannot be
/// examined is kept, which is harmless. Files with content are kept, because these tools create only empty lock files.
pub fn sweep(host: &Host) {
    if is_root() {
        take_over(host);
    }
    for owner in LockOwner::ALL {
        let Ok(Some(directory)) = LockDirectory::open(host, owner) else { continue };
        for name in directory.names() {
            let path = directory.path_of(&name);
            // The lock is held while its file is removed, so that a process that waits for the lock sees the removal.
            if let Some(_held) = stale_lock(&directory, &name, &path) {
                log::step(format_args!("remove the stale lock {}", path.display()));
                directory.remove(&name);
            }
        }
    }
}

/// A lock file that may be removed, with the lock on it. A lock file that has no effect is not locked.
fn stale_lock(directory: &LockDirectory, name: &str, path: &Path) -> Option<Option<FileLock>> {
    let file = directory.lock_file(name).ok()?;
    let is_empty_file =
        file.metadata().is_ok_and(|metadata| metadata.is_file() && metadata.len() == 0);
    if !is_empty_file {
        return None;
    }
    if !counts(&file, directory.owner, path).ok()? {
        return Some(None);
    }
    lock_file(file, LockKind::Exclusive, path).ok()?.locked().map(Some)
}

fn expect_own(metadata: &Metadata, path: &Path) -> Result<()> {
    if metadata.uid() == rustix::process::geteuid().as_raw() && metadata.is_file() {
        Ok(())
    } else {
        Err(is_another_users(path))
    }
}
