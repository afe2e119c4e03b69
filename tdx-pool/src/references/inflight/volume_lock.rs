//! Locks on volumes that are about to be used, and on volumes that are about to be removed.
//!
//! Root's locks and those of other users are in different directories. A process first takes its own lock and then
//! checks the other directory, so that at least one of two processes sees the other. A process of root keeps its lock
//! and waits. A process of another user releases its lock and starts again.

use std::fs::{File, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use common::system::file_lock::{FileLock, LockKind, Patience, TryLock};
use common::system::sysroot::Host;
use common::{Error, ErrorKind, IoContext, Result};

use super::directory::{LockDirectory, LockOwner};
use super::lock_file::{counts, is_another_users, is_locked_in, lock_file};
use super::membership::prove_membership;

/// A lock that keeps a volume from being removed, because this process is about to create a reference to the volume.
///
/// A process that creates an overlay backed by a volume, or defines a domain with the volume, holds this lock until the
/// overlay or the domain exists. A process that deletes or replaces the volume first takes a [`RemovalLock`] and then
/// looks for users, so that neither process misses the other.
#[derive(Debug)]
pub struct UseLock {
    _lock: NameLock,
}

impl UseLock {
    /// Locks the volume `name`, after waiting for a process that deletes or replaces the volume. After the wait, the
    /// volume may no longer exist.
    ///
    /// Errors: `conflict` when the wait takes too long; `permission`, `io`; `interrupted`.
    pub fn begin(host: &Host, name: &str) -> Result<Self> {
        let lock = NameLock::lock(host, name, LockKind::Shared, PATIENCE)?;
        let busy =
            || Error::conflict(format!("another process is deleting or replacing volume '{name}'"));
        Ok(Self { _lock: lock.ok_or_else(busy)? })
    }
}

/// A lock that keeps processes from beginning to use a volume that is about to be deleted or replaced.
#[derive(Debug)]
pub struct RemovalLock {
    _lock: NameLock,
}

impl RemovalLock {
    /// Locks the volume `name`, after waiting for the processes that hold a [`UseLock`] on it. After the wait, the
    /// references that they created are visible.
    ///
    /// Errors: `conflict` when the wait takes too long; `permission`, `io`; `interrupted`.
    pub fn begin(host: &Host, name: &str) -> Result<Self> {
        let lock = NameLock::lock(host, name, LockKind::Exclusive, PATIENCE)?;
        let busy = || Error::conflict(format!("another process is creating volume '{name}'"));
        Ok(Self { _lock: lock.ok_or_else(busy)? })
    }
}

/// How long to wait for a lock.
const PATIENCE: Patience = Patience {
    limit: Duration::from_secs(5),
    pause: Duration::from_millis(20),
    is_interruptible: true,
};

/// A lock on a name that processes of several users may want at the same time.
#[derive(Debug)]
struct NameLock {
    directory: Arc<LockDirectory>,
    name: String,
    lock: FileLock,
}

impl NameLock {
    /// Takes the lock. Returns none when other processes held the lock for the whole wait.
    fn lock(host: &Host, name: &str, kind: LockKind, patience: Patience) -> Result<Option<Self>> {
        let directory = Arc::new(LockDirectory::make(host)?);
        let mut held = None;
        let mut refused = None;
        let lock = patience.wait_for(|| {
            if held.is_none() {
                match Self::try_lock(&directory, name, kind) {
                    // The process that created the file may not have given it to the group yet.
                    Err(error) if error.kind() == ErrorKind::Permission => {
                        refused = Some(error);
                        return Ok(None);
                    }
                    lock => (held, refused) = (lock?, None),
                }
            }
            if held.is_some() && !is_locked_in(host, LockOwner::other(), name, kind)? {
                return Ok(held.take());
            }
            if LockOwner::current() == LockOwner::Users {
                held = None;
            }
            Ok(None)
        })?;
        match (lock, refused) {
            (None, Some(error)) => Err(error),
            (lock, _) => Ok(lock),
        }
    }

    /// Takes the lock in this directory; none when another process has it.
    fn try_lock(
        directory: &Arc<LockDirectory>,
        name: &str,
        kind: LockKind,
    ) -> Result<Option<Self>> {
        let path = &directory.path_of(name);
        loop {
            let lock = open_or_create(directory, name)?;
            if lock.metadata().at("examine", path)?.uid() == rustix::process::geteuid().as_raw() {
                open_to_members(&lock, path)?;
            }
            if !counts(&lock, directory.owner, path)? {
                return Err(is_another_users(path));
            }
            let TryLock::Locked(lock) = lock_file(lock, kind, path)? else {
                return Ok(None);
            };
            // The last holder, or a cleanup, may have removed the file between open and lock.
            if lock.metadata().at("examine", path)?.nlink() > 0 {
                return Ok(Some(Self {
                    directory: directory.clone(),
                    name: name.to_owned(),
                    lock,
                }));
            }
        }
    }
}

impl Drop for NameLock {
    fn drop(&mut self) {
        // The last holder removes the file.
        if self.lock.try_upgrade().is_ok_and(|is_exclusive| is_exclusive) {
            self.directory.remove(&self.name);
        }
    }
}

/// Opens a lock file that may belong to another user. The kernel does not allow `O_CREAT` for such a file in this
/// directory.
///
/// Source: Linux `Documentation/admin-guide/sysctl/fs.rst`, `protected_regular`.
fn open_or_create(directory: &LockDirectory, name: &str) -> Result<File> {
    let path = directory.path_of(name);
    loop {
        match directory.lock_file(name) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            opened => return opened.at("open the lock", &path),
        }
        match directory.create_new(name) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            created => return created.at("create the lock", &path),
        }
    }
}

/// Sets the mode of a lock file so that only members of the group that may use libvirt can take the lock.
fn open_to_members(lock: &File, path: &Path) -> Result<()> {
    let mode = if prove_membership(lock) { 0o640 } else { 0o600 };
    // Set explicitly, because the umask may have removed bits.
    lock.set_permissions(Permissions::from_mode(mode)).at("set the permissions of", path)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::creation::{InFlight, is_in_flight};
    use super::super::membership::is_root;
    use super::*;

    const NAME: &str = "base.qcow2";

    const ONCE: Patience = Patience { limit: Duration::ZERO, ..PATIENCE };

    fn remove(host: &Host) -> Option<NameLock> {
        NameLock::lock(host, NAME, LockKind::Exclusive, ONCE).unwrap()
    }

    #[test]
    fn a_use_lock_and_a_removal_lock_exclude_each_other() {
        let root = tempfile::tempdir().unwrap();
        let host = Host::new(root.path());
        let first = UseLock::begin(&host, NAME).unwrap();
        let second = UseLock::begin(&host, NAME).unwrap();
        assert!(is_in_flight(&host, NAME).unwrap());
        assert!(InFlight::begin(&host, NAME).is_err());
        drop(first);
        assert!(remove(&host).is_none(), "one of two holders is left");
        drop(second);
        let removal = RemovalLock::begin(&host, NAME).unwrap();
        let kept = std::thread::scope(|scope| {
            let waiting = scope.spawn(|| UseLock::begin(&host, NAME));
            drop(removal);
            waiting.join().unwrap().unwrap()
        });
        assert!(remove(&host).is_none());
        drop(kept);
        assert_eq!(fs::read_dir(LockOwner::current().path(&host)).unwrap().count(), 0);
    }

    #[test]
    fn a_lock_of_another_user_has_an_effect_only_with_the_right_group() {
        if !is_root() {
            return;
        }
        let root = tempfile::tempdir().unwrap();
        let host = Host::new(root.path());
        let path = LockOwner::Users.path(&host).join(NAME);
        fs::create_dir_all(LockOwner::Users.path(&host)).unwrap();
        let theirs = File::create(&path).unwrap();
        theirs.try_lock_shared().unwrap();
        for (mode, is_removed) in [(0o600, false), (0o644, true)] {
            theirs.set_permissions(Permissions::from_mode(mode)).unwrap();
            assert_eq!(remove(&host).is_some(), is_removed, "{mode:o}");
            UseLock::begin(&host, NAME).unwrap();
        }
        theirs.set_permissions(Permissions::from_mode(0o600)).unwrap();
        theirs.try_lock().unwrap();
        let keep = || NameLock::lock(&host, NAME, LockKind::Shared, ONCE).unwrap();
        assert!(keep().is_none(), "kept while another user removes it");
        drop(theirs);
        assert!(keep().is_some());
    }
}
