//! Creations under way: a held lock says "not an orphan yet".
//!
//! A volume is locked under its name before it exists and until something refers to it. The kernel
//! drops the lock with the process, however it dies, so a leftover is known at once and by nothing as
//! vague as age.
//!
//! The same file is locked by whoever is about to refer to a volume ([`Kept`]) and by whoever is about
//! to delete or replace it ([`Removal`]).

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use common::host::Host;
use common::{Error, IoContext, Result, log};
use rustix::fs::{FlockOperation, OFlags, flock};

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
            let options = options.write(true).create(true).truncate(false);
            let lock = options.custom_flags(careful()).open(&path).at("create the lock", &path)?;
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

/// Volumes that stay while this is held: something is about to refer to them.
///
/// Whoever puts an overlay on a volume, or defines a domain on it, holds this until the overlay or the
/// domain is there to be seen. Whoever deletes or replaces the volume takes [`Removal`] first and looks
/// for users after that, so that neither can miss the other.
#[derive(Debug)]
pub struct Kept {
    _lock: SharedName,
}

impl Kept {
    /// Keeps the volume `name`, after waiting for a process that deletes or replaces it: the volume may
    /// be gone then.
    ///
    /// Errors: `conflict` when that takes too long; `permission`, `io`; `interrupted`.
    pub fn begin(host: &Host, name: &str) -> Result<Self> {
        let lock = SharedName::lock(host, name, FlockOperation::NonBlockingLockShared, PATIENCE)?;
        let busy = || Error::conflict(format!("volume '{name}' is being deleted or replaced"));
        Ok(Self { _lock: lock.ok_or_else(busy)? })
    }
}

/// A volume that nothing can begin to use while this is held: it is about to be deleted or replaced.
#[derive(Debug)]
pub struct Removal {
    _lock: SharedName,
}

impl Removal {
    /// Locks the volume `name`, after waiting for those who keep it: then they can be seen to use it.
    ///
    /// Errors: `conflict` when that takes too long; `permission`, `io`; `interrupted`.
    pub fn begin(host: &Host, name: &str) -> Result<Self> {
        let lock =
            SharedName::lock(host, name, FlockOperation::NonBlockingLockExclusive, PATIENCE)?;
        let busy = || Error::conflict(format!("volume '{name}' is being made by another process"));
        Ok(Self { _lock: lock.ok_or_else(busy)? })
    }
}

/// How long a lock is waited for.
const PATIENCE: Duration = Duration::from_secs(5);

/// A lock on a name that several processes, also of different users, may want at once.
#[derive(Debug)]
struct SharedName {
    path: PathBuf,
    lock: File,
}

impl SharedName {
    /// Takes the lock; none when others held it for all of `patience`.
    fn lock(
        host: &Host,
        name: &str,
        operation: FlockOperation,
        patience: Duration,
    ) -> Result<Option<Self>> {
        let folder = host.path(FOLDER);
        make_folder(&folder)?;
        let path = folder.join(name);
        let end = Instant::now() + patience;
        loop {
            let lock = open_or_create(&path)?;
            match flock(&lock, operation) {
                // The last holder may have removed the file between open and lock.
                Ok(()) if lock.metadata().at("look at", &path)?.nlink() > 0 => {
                    return Ok(Some(Self { path, lock }));
                }
                Ok(()) => {}
                Err(rustix::io::Errno::WOULDBLOCK) if Instant::now() >= end => return Ok(None),
                Err(rustix::io::Errno::WOULDBLOCK) => {
                    common::interrupt::sleep(Duration::from_millis(20))?;
                }
                Err(error) => return Err(error).at("lock", &path),
            }
        }
    }
}

impl Drop for SharedName {
    fn drop(&mut self) {
        // The last one removes the file.
        if flock(&self.lock, FlockOperation::NonBlockingLockExclusive).is_ok() {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Opens a lock file that may be another user's, which the kernel lets nobody open with `O_CREAT` here.
///
/// Source: Linux `Documentation/admin-guide/sysctl/fs.rst`, `protected_regular`.
fn open_or_create(path: &Path) -> Result<File> {
    loop {
        match OpenOptions::new().read(true).custom_flags(careful()).open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            opened => return opened.at("open the lock", path),
        }
        let mut options = OpenOptions::new();
        match options.write(true).create_new(true).custom_flags(careful()).open(path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            created => {
                let lock = created.at("create the lock", path)?;
                // Not by the umask: whoever can read it can lock it.
                lock.set_permissions(Permissions::from_mode(0o644)).at("open up", path)?;
                return Ok(lock);
            }
        }
    }
}

/// Whether some process is making the volume `name`, or keeps it for something that it makes.
///
/// Errors: `io` or `permission` when that cannot be told.
pub fn is_in_flight(host: &Host, name: &str) -> Result<bool> {
    let path = host.path(FOLDER).join(name);
    match OpenOptions::new().read(true).custom_flags(careful()).open(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        lock => is_locked(&lock.at("open the lock", &path)?, &path),
    }
}

/// Takes the lock files of dead processes away. What cannot be judged is left: a lock file too many
/// does no harm.
pub fn sweep(host: &Host) {
    for entry in fs::read_dir(host.path(FOLDER)).into_iter().flatten().flatten() {
        let path = entry.path();
        let lock = OpenOptions::new().read(true).custom_flags(careful()).open(&path);
        // Still held while it is removed: whoever waits for it then finds it unlinked.
        if let Ok(lock) = lock
            && is_locked(&lock, &path).is_ok_and(|locked| !locked)
        {
            log::step(format_args!("remove the stale lock {}", path.display()));
            let _ = fs::remove_file(&path);
        }
    }
}

/// Takes the lock, which lasts until `lock` is closed, unless another has it.
fn is_locked(lock: &File, path: &Path) -> Result<bool> {
    match flock(lock, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(false),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(true),
        Err(error) => Err(error).at("lock", path),
    }
}

/// Flags for a folder where anyone may have put anything: follow no links, wait for nobody.
fn careful() -> i32 {
    (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed()
}

fn make_folder(folder: &Path) -> Result<()> {
    match DirBuilder::new().mode(0o700).create(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            fs::create_dir_all(folder.parent().unwrap_or(folder)).at("create", folder)?;
            make_folder(folder)
        }
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            Err(error).at("create", folder)
        }
        made => open_up(folder, made.is_ok()),
    }
}

/// Lets others make their locks here, but not take away those of root.
fn open_up(folder: &Path, made: bool) -> Result<()> {
    let flags = (OFlags::NOFOLLOW | OFlags::DIRECTORY).bits().cast_signed();
    let root = rustix::process::geteuid().is_root();
    if !made && !root {
        return Ok(());
    }
    let open = OpenOptions::new().read(true).custom_flags(flags).open(folder).at("open", folder)?;
    let foreign = open.metadata().at("look at", folder)?.uid() != 0;
    if root && foreign {
        fchown(&open, Some(0), Some(0)).at("take over", folder)?;
    }
    if made || foreign {
        // Not by the umask.
        open.set_permissions(Permissions::from_mode(0o1777)).at("open up", folder)?;
    }
    Ok(())
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
        let stale = host.path(FOLDER).join(NAME);
        fs::write(&stale, "").unwrap();
        assert!(!is_in_flight(&host, NAME).unwrap());
        assert!(stale.exists(), "looking took the lock file away");
        let held = InFlight::begin(&host, "overlay.held00000000000.qcow2").unwrap();
        sweep(&host);
        assert!(!stale.exists());
        assert!(held.path.exists(), "a held lock was taken for a stale one");
    }

    #[test]
    fn a_volume_that_is_kept_is_not_removed_and_the_reverse() {
        let root = tempfile::tempdir().unwrap();
        let host = Host::new(root.path());
        let remove = |patience| {
            let exclusive = FlockOperation::NonBlockingLockExclusive;
            SharedName::lock(&host, NAME, exclusive, patience).unwrap()
        };
        let first = Kept::begin(&host, NAME).unwrap();
        let second = Kept::begin(&host, NAME).unwrap();
        assert!(is_in_flight(&host, NAME).unwrap());
        drop(first);
        assert!(remove(Duration::ZERO).is_none(), "one of two holders is left");
        drop(second);
        let removal = Removal::begin(&host, NAME).unwrap();
        let kept = std::thread::scope(|scope| {
            let waiting = scope.spawn(|| Kept::begin(&host, NAME));
            drop(removal);
            waiting.join().unwrap().unwrap()
        });
        assert!(remove(Duration::ZERO).is_none());
        drop(kept);
        assert_eq!(fs::read_dir(host.path(FOLDER)).unwrap().count(), 0);
    }

    #[test]
    fn a_hostile_folder_is_taken_over_or_refused() {
        let root = tempfile::tempdir().unwrap();
        let host = Host::new(root.path());
        let folder = host.path(FOLDER);
        fs::create_dir_all(folder.parent().unwrap()).unwrap();
        std::os::unix::fs::symlink("/tmp", &folder).unwrap();
        let is_root = rustix::process::geteuid().is_root();
        assert!(!is_root || InFlight::begin(&host, NAME).is_err(), "followed a link");
        fs::remove_file(&folder).unwrap();
        fs::create_dir(&folder).unwrap();
        if is_root {
            std::os::unix::fs::chown(&folder, Some(65534), Some(65534)).unwrap();
            InFlight::begin(&host, NAME).unwrap();
            let metadata = folder.metadata().unwrap();
            assert_eq!((metadata.uid(), metadata.mode() & 0o7777), (0, 0o1777));
        }
    }
}
