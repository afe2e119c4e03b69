//! Creations under way: a held lock says "not an orphan yet".
//!
//! A volume is locked under its name before it exists and until something refers to it. The kernel
//! drops the lock with the process, however it dies, so a leftover is known at once and by nothing as
//! vague as age.
//!
//! A volume that something is about to refer to is locked as well ([`Kept`]), and one that is about to be
//! deleted or replaced ([`Removal`]).
//!
//! Root's locks lie where nobody else can create a file, and only members of the group that may use libvirt can
//! open one, so that nobody else can hold one in root's way. The locks of other users lie in a directory that all
//! can write. There a lock counts only when its file has that group, which only its members can give to a file,
//! and when nobody but they can open it.

use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::{MetadataExt, fchown};
use std::path::Path;

use common::cli::log;
use common::system::file_lock::{FileLock, LockKind, TryLock};
use common::system::sysroot::Host;
use common::system::user;
use common::{Error, IoContext, Result};

mod directory;
mod kept;

use directory::{LockDirectory, Owner, take_over};
pub use kept::{Kept, Removal};

/// A creation under way. It ends when this is dropped.
#[derive(Debug)]
pub struct InFlight {
    directory: LockDirectory,
    name: String,
    _lock: FileLock,
}

impl InFlight {
    /// Says that the volume `name` is about to be made.
    ///
    /// Errors: `permission` or `io` when the lock cannot be had; `conflict` when another process makes
    /// a volume of that name.
    pub fn begin(host: &Host, name: &str) -> Result<Self> {
        let directory = LockDirectory::make(host)?;
        let path = directory.path_of(name);
        loop {
            let lock = directory.open_or_create(name).at("create the lock", &path)?;
            expect_own(&lock.metadata().at("look at", &path)?, &path)?;
            let TryLock::Locked(lock) = lock_file(lock, LockKind::Exclusive, &path)? else {
                return Err(Error::conflict(format!(
                    "volume '{name}' is being made by another process"
                )));
            };
            if !is_root() {
                prove_membership(&lock);
            }
            // A cleanup may have taken the file away between open and lock.
            if lock.metadata().at("look at", &path)?.nlink() > 0 {
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

/// Whether some process is making the volume `name`, or keeps it for something that it makes. Who is not root
/// cannot tell a lock that only its holder can open from one that a dead process left, and takes it for a lock.
///
/// Errors: `io` or `permission` when that cannot be told.
pub fn is_in_flight(host: &Host, name: &str) -> Result<bool> {
    for owner in Owner::ALL {
        if is_locked_in(host, owner, name, LockKind::Exclusive)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether a lock in a directory speaks against this kind of lock.
fn is_locked_in(host: &Host, owner: Owner, name: &str, kind: LockKind) -> Result<bool> {
    let Some(directory) = LockDirectory::open(host, owner)? else { return Ok(false) };
    let path = directory.path_of(name);
    let lock = match directory.lock_file(name) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        // A link, which these tools never make there.
        Err(error) if error.raw_os_error() == Some(LOOP) && owner == Owner::Users => {
            return Ok(false);
        }
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied && !is_root() => {
            return directory.has(name).at("look at the lock", &path);
        }
        lock => lock.at("open the lock", &path)?,
    };
    Ok(counts(&lock, owner, &path)? && is_busy(lock, kind, &path)?)
}

/// Removes the lock files of dead processes, and those that do not count. What cannot be judged is left: a
/// lock file too many does no harm. What is no empty file was not made by these tools.
pub fn sweep(host: &Host) {
    if is_root() {
        take_over(host);
    }
    for owner in Owner::ALL {
        let Ok(Some(directory)) = LockDirectory::open(host, owner) else { continue };
        for name in directory.names() {
            let path = directory.path_of(&name);
            // The lock is held while its file is removed: whoever waits for the lock finds the file unlinked.
            if let Some(_held) = stale_lock(&directory, &name, &path) {
                log::step(format_args!("remove the stale lock {}", path.display()));
                directory.remove(&name);
            }
        }
    }
}

/// A lock file that may be removed, and the lock on it, which a file that does not count needs not.
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

/// Whether a lock in this directory keeps anybody from anything.
fn counts(lock: &File, owner: Owner, path: &Path) -> Result<bool> {
    let metadata = lock.metadata().at("look at", path)?;
    let by_whom = [0, rustix::process::geteuid().as_raw()].contains(&metadata.uid());
    let by_member = members().contains(&metadata.gid());
    let is_private = metadata.mode() & if by_member { 0o037 } else { 0o077 } == 0;
    Ok(owner == Owner::Root || metadata.is_file() && is_private && (by_whom || by_member))
}

/// The groups that may use libvirt's system connection: the one that distributions' polkit rules name, and
/// those that the sockets are open to.
///
/// Source: <https://libvirt.org/auth.html#unix-socket-permissions-group>.
fn members() -> Vec<u32> {
    let sockets = ["libvirt-sock", "virtqemud-sock", "virtstoraged-sock"];
    let groups = sockets.iter().filter_map(|socket| {
        let metadata = Path::new("/run/libvirt").join(socket).metadata().ok()?;
        (metadata.mode() & 0o020 != 0 && metadata.gid() != 0).then(|| metadata.gid())
    });
    user::group_id("libvirt").into_iter().chain(groups).collect()
}

/// Gives a file a group that only its members can give, and says whether it could. The lock of anybody else
/// counts for nobody.
fn prove_membership(file: &File) -> bool {
    let is_given = |group: &u32| fchown(file, None, Some(*group)).is_ok();
    let is_member = members().iter().any(is_given);
    if !is_member && !is_root() {
        log::step(
            "this user is in no group that may use libvirt: root's commands ignore its locks",
        );
    }
    is_member
}

/// Takes this kind of lock, unless another open file has one that does not allow it.
fn lock_file(file: File, kind: LockKind, path: &Path) -> Result<TryLock> {
    FileLock::try_lock(file, kind).at("lock", path)
}

/// Whether another open file has a lock that does not allow this kind of lock.
fn is_busy(file: File, kind: LockKind, path: &Path) -> Result<bool> {
    Ok(matches!(lock_file(file, kind, path)?, TryLock::Busy(_)))
}

/// What opening a link says when links are not followed.
const LOOP: i32 = rustix::io::Errno::LOOP.raw_os_error();

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn expect_own(metadata: &Metadata, path: &Path) -> Result<()> {
    match metadata.uid() == rustix::process::geteuid().as_raw() && metadata.is_file() {
        true => Ok(()),
        false => Err(is_another_users(path)),
    }
}

fn is_another_users(path: &Path) -> Error {
    Error::permission(format!("the lock {} is another user's", path.display()))
        .hint("tdx-pool cleanup, run as root, removes stale locks")
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;
    use std::path::PathBuf;

    use super::*;

    const NAME: &str = "overlay.abcDEF012345678.qcow2";

    fn folder(host: &Host) -> PathBuf {
        Owner::own().path(host)
    }

    #[test]
    fn a_lock_lasts_as_long_as_its_holder() {
        let root = tempfile::tempdir().unwrap();
        let host = Host::new(root.path());
        assert!(!is_in_flight(&host, NAME).unwrap());
        let held = InFlight::begin(&host, NAME).unwrap();
        assert_eq!(folder(&host).join(NAME).metadata().unwrap().mode() & 0o777, 0o600);
        assert!(is_in_flight(&host, NAME).unwrap());
        assert!(InFlight::begin(&host, NAME).is_err());
        drop(held);
        assert!(!is_in_flight(&host, NAME).unwrap());
        assert_eq!(fs::read_dir(folder(&host)).unwrap().count(), 0);
    }

    #[test]
    fn a_dead_holders_file_is_no_lock() {
        let root = tempfile::tempdir().unwrap();
        let host = Host::new(root.path());
        drop(InFlight::begin(&host, NAME).unwrap());
        let stale = folder(&host).join(NAME);
        fs::write(&stale, "").unwrap();
        assert!(!is_in_flight(&host, NAME).unwrap());
        assert!(stale.exists(), "looking took the lock file away");
        let held = InFlight::begin(&host, "overlay.held00000000000.qcow2").unwrap();
        sweep(&host);
        assert!(!stale.exists());
        assert!(held.directory.has(&held.name).unwrap(), "a held lock was taken for a stale one");
    }

    #[test]
    fn a_lock_that_others_can_open_does_not_count() {
        let root = tempfile::tempdir().unwrap();
        let host = Host::new(root.path());
        let path = Owner::Users.path(&host).join(NAME);
        fs::create_dir_all(Owner::Users.path(&host)).unwrap();
        let lock = File::create(&path).unwrap();
        lock.try_lock().unwrap();
        for (mode, is_lock) in [(0o600, true), (0o640, false), (0o666, false)] {
            lock.set_permissions(Permissions::from_mode(mode)).unwrap();
            assert_eq!(is_in_flight(&host, NAME).unwrap(), is_lock, "{mode:o}");
        }
        fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("/dev/null", &path).unwrap();
        assert!(!is_in_flight(&host, NAME).unwrap(), "followed a link");
    }

    #[test]
    fn sweep_removes_nothing_behind_a_link_and_no_file_that_is_no_lock() {
        let root = tempfile::tempdir().unwrap();
        let host = Host::new(root.path());
        let elsewhere = root.path().join("etc");
        fs::create_dir(&elsewhere).unwrap();
        for name in ["passwd", "empty"] {
            fs::write(elsewhere.join(name), if name == "empty" { "" } else { "root" }).unwrap();
        }
        for owner in Owner::ALL {
            let directory = owner.path(&host);
            fs::create_dir_all(directory.parent().unwrap()).unwrap();
            std::os::unix::fs::symlink(&elsewhere, &directory).unwrap();
            sweep(&host);
            assert_eq!(fs::read_dir(&elsewhere).unwrap().count(), 2, "{owner:?}");
            let found = is_locked_in(&host, owner, "empty", LockKind::Shared);
            assert!(found.is_err() || !found.unwrap(), "{owner:?}");
            fs::remove_file(&directory).unwrap();
            fs::create_dir(&directory).unwrap();
            fs::write(directory.join("notes"), "not a lock").unwrap();
            fs::write(directory.join("stale"), "").unwrap();
            sweep(&host);
            let left: Vec<_> = fs::read_dir(&directory).unwrap().flatten().collect();
            assert_eq!(left.len(), 1, "{left:?}");
        }
    }

    #[test]
    fn what_is_no_directory_of_locks_holds_no_lock() {
        let root = tempfile::tempdir().unwrap();
        let host = Host::new(root.path());
        let (users, other) = (Owner::Users.path(&host), root.path().join("other"));
        fs::create_dir_all(users.parent().unwrap()).unwrap();
        fs::create_dir(&other).unwrap();
        let lock = File::create(other.join(NAME)).unwrap();
        lock.set_permissions(Permissions::from_mode(0o600)).unwrap();
        lock.try_lock().unwrap();
        fs::write(&users, "").unwrap();
        assert!(!is_in_flight(&host, NAME).unwrap(), "a file");
        fs::remove_file(&users).unwrap();
        std::os::unix::fs::symlink(&other, &users).unwrap();
        assert!(!is_in_flight(&host, NAME).unwrap(), "a link");
        assert_eq!(
            InFlight::begin(&host, NAME).is_ok(),
            is_root(),
            "root has a directory of its own"
        );
    }

    #[test]
    fn a_directory_that_is_not_ours_is_refused() {
        let root = tempfile::tempdir().unwrap();
        let host = Host::new(root.path());
        let folder = folder(&host);
        fs::create_dir_all(folder.parent().unwrap()).unwrap();
        std::os::unix::fs::symlink("/tmp", &folder).unwrap();
        assert!(!is_root() || InFlight::begin(&host, NAME).is_err(), "followed a link");
        fs::remove_file(&folder).unwrap();
        fs::create_dir(&folder).unwrap();
        fs::set_permissions(&folder, Permissions::from_mode(0o777)).unwrap();
        assert!(!is_root() || InFlight::begin(&host, NAME).is_err(), "others can write there");
        if is_root() {
            let users = Owner::Users.path(&host);
            fs::create_dir_all(&users).unwrap();
            std::os::unix::fs::chown(&users, Some(65534), Some(65534)).unwrap();
            sweep(&host);
            let metadata = users.metadata().unwrap();
            assert_eq!((metadata.uid(), metadata.mode() & 0o7777), (0, 0o1777));
        }
    }
}
