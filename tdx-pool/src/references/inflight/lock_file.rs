//! The file of a lock: whether it has an effect, and whether it is locked.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use common::system::file_lock::{FileLock, LockKind, TryLock};
use common::system::sysroot::Host;
use common::{Error, IoContext, Result};

use super::directory::{LockDirectory, LockOwner};
use super::membership::{is_root, members};

/// The error of opening a link with O_NOFOLLOW.
const LOOP: i32 = rustix::io::Errno::LOOP.raw_os_error();

/// Whether a lock in a directory conflicts with this kind of lock.
pub(super) fn is_locked_in(
    host: &Host,
    owner: LockOwner,
    name: &str,
    kind: LockKind,
) -> Result<bool> {
    let Some(directory) = LockDirectory::open(host, owner)? else { return Ok(false) };
    let path = directory.path_of(name);
    let lock = match directory.lock_file(name) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        // A link, which these tools never create there.
        Err(error) if error.raw_os_error() == Some(LOOP) && owner == LockOwner::Users => {
            return Ok(false);
        }
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied && !is_root() => {
            return directory.has(name).at("examine the lock", &path);
        }
        lock => lock.at("open the lock", &path)?,
    };
    Ok(counts(&lock, owner, &path)? && is_busy(lock, kind, &path)?)
}

/// Whether a lock in this directory has an effect on other processes.
pub(super) fn counts(lock: &File, owner: LockOwner, path: &Path) -> Result<bool> {
    let metadata = lock.metadata().at("examine", path)?;
    let by_whom = [0, rustix::process::geteuid().as_raw()].contains(&metadata.uid());
    let by_member = members().contains(&metadata.gid());
    let is_private = metadata.mode() & if by_member { 0o037 } else { 0o077 } == 0;
    Ok(owner == LockOwner::Root || metadata.is_file() && is_private && (by_whom || by_member))
}

/// Takes this kind of lock, unless another open file has a conflicting lock.
pub(super) fn lock_file(file: File, kind: LockKind, path: &Path) -> Result<TryLock> {
    FileLock::try_lock(file, kind).at("lock", path)
}

/// Whether another open file has a lock that conflicts with this kind of lock.
fn is_busy(file: File, kind: LockKind, path: &Path) -> Result<bool> {
    Ok(matches!(lock_file(file, kind, path)?, TryLock::Busy(_)))
}

/// The error for a lock file of another user.
pub(super) fn is_another_users(path: &Path) -> Error {
    Error::permission(format!("the lock {} belongs to another user", path.display()))
        .hint("to remove stale locks, run sudo tdx-pool cleanup")
}
