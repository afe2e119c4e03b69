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

use std::fs::{self, DirBuilder, File, Metadata, OpenOptions, Permissions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use common::host::Host;
use common::{Error, IoContext, Result, log, user};
use rustix::fs::{FlockOperation, OFlags, flock};

mod kept;

pub use kept::{Kept, Removal};

/// The directory of root's locks. Everybody can see whether there is a lock of a name.
const OF_ROOT: &str = "/run/tdx-pool";

/// The directory of all others' locks: members of the group libvirt make overlays too.
const OF_USERS: &str = "/run/lock/tdx";

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
        let folder = make_folder(host)?;
        let path = folder.join(name);
        loop {
            let mut options = OpenOptions::new();
            let options = options.write(true).create(true).truncate(false).mode(0o600);
            let lock = options.custom_flags(careful()).open(&path).at("create the lock", &path)?;
            expect_own(&lock.metadata().at("look at", &path)?, &path)?;
            if is_locked(&lock, &path)? {
                return Err(Error::conflict(format!(
                    "volume '{name}' is being made by another process"
                )));
            }
            if !is_root() {
                prove_membership(&lock);
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

/// Whether some process is making the volume `name`, or keeps it for something that it makes. Who is not root
/// cannot tell a lock that only its holder can open from one that a dead process left, and takes it for a lock.
///
/// Errors: `io` or `permission` when that cannot be told.
pub fn is_in_flight(host: &Host, name: &str) -> Result<bool> {
    for folder in [OF_ROOT, OF_USERS] {
        if is_locked_in(host, folder, name, FlockOperation::NonBlockingLockExclusive)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether a lock in a directory speaks against this kind of lock.
fn is_locked_in(host: &Host, folder: &str, name: &str, wanted: FlockOperation) -> Result<bool> {
    let shown = host.path(folder).join(name);
    // Anybody may have put something else in the place of the directory of all users: there is no lock in that.
    let opened = match open_path(&host.path(folder)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) if is_no_directory(&error) && folder == OF_USERS => return Ok(false),
        opened => opened.at("open the directory of", &shown)?,
    };
    let path = PathBuf::from(format!("/proc/self/fd/{}", opened.as_raw_fd())).join(name);
    let lock = match OpenOptions::new().read(true).custom_flags(careful()).open(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        // A link, which these tools never make there.
        Err(error) if error.raw_os_error() == Some(LOOP) && folder == OF_USERS => return Ok(false),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied && !is_root() => {
            return match path.symlink_metadata() {
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
                there => there.at("look at the lock", &shown).map(|_| true),
            };
        }
        lock => lock.at("open the lock", &shown)?,
    };
    Ok(counts(&lock, folder, &shown)? && !try_lock(&lock, &shown, wanted)?)
}

/// Takes the lock files of dead processes away, and those that do not count. What cannot be judged is left: a
/// lock file too many does no harm.
pub fn sweep(host: &Host) {
    if is_root() {
        take_over(host);
    }
    for name in [OF_ROOT, OF_USERS] {
        // Anybody may have put a link to another directory there.
        let Ok(folder) = open(&host.path(name)) else { continue };
        // The directory that was opened, whatever has its name by now.
        let opened = PathBuf::from(format!("/proc/self/fd/{}", folder.as_raw_fd()));
        for entry in fs::read_dir(&opened).into_iter().flatten().flatten() {
            let path = opened.join(entry.file_name());
            let lock = OpenOptions::new().read(true).custom_flags(careful()).open(&path);
            // Still held while it is removed: whoever waits for it then finds it unlinked.
            if let Ok(lock) = lock
                && is_empty_file(&lock)
                && let Ok(counts) = counts(&lock, name, &path)
                && (!counts || is_locked(&lock, &path).is_ok_and(|locked| !locked))
            {
                let shown = entry.file_name();
                log::step(format_args!("remove the stale lock {name}/{}", shown.display()));
                let _ = fs::remove_file(&path);
            }
        }
    }
}

/// Whether this can be a lock file: those have no content.
fn is_empty_file(file: &File) -> bool {
    file.metadata().is_ok_and(|metadata| metadata.is_file() && metadata.len() == 0)
}

/// Whether a lock in this directory keeps anybody from anything.
fn counts(lock: &File, folder: &str, path: &Path) -> Result<bool> {
    let metadata = lock.metadata().at("look at", path)?;
    let by_whom = [0, rustix::process::geteuid().as_raw()].contains(&metadata.uid());
    let by_member = members().contains(&metadata.gid());
    let is_private = metadata.mode() & if by_member { 0o037 } else { 0o077 } == 0;
    Ok(folder == OF_ROOT || metadata.is_file() && is_private && (by_whom || by_member))
}

/// The groups that may use libvirt's system connection: the one that distributions' polkit rules name, and
/// those that the sockets are open to.
///
/// Source: <https://libvirt.org/auth.html#unix-socket-permissions-group>.
fn members() -> Vec<u32> {
    let sockets = ["libvirt-sock", "virtqemud-sock", "virtstoraged-sock"];
    let groups = sockets.iter().filter_map(|socket| {
        let metadata = fs::metadata(Path::new("/run/libvirt").join(socket)).ok()?;
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

/// Takes the lock, which lasts until `lock` is closed, unless another has it.
fn is_locked(lock: &File, path: &Path) -> Result<bool> {
    Ok(!try_lock(lock, path, FlockOperation::NonBlockingLockExclusive)?)
}

/// Takes this kind of lock, unless another has one that speaks against it.
fn try_lock(lock: &File, path: &Path, wanted: FlockOperation) -> Result<bool> {
    match flock(lock, wanted) {
        Ok(()) => Ok(true),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(false),
        Err(error) => Err(error).at("lock", path),
    }
}

/// Flags for a folder where anyone may have put anything: follow no links, wait for nobody.
fn careful() -> i32 {
    (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed()
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

/// Makes the directory of this user's locks.
fn make_folder(host: &Host) -> Result<PathBuf> {
    if !is_root() {
        return make_users_folder(host);
    }
    take_over(host);
    let folder = host.path(OF_ROOT);
    if create(&folder, 0o711)?.is_none() {
        let metadata = open(&folder)?.metadata().at("look at", &folder)?;
        if metadata.uid() != 0 || metadata.mode() & 0o022 != 0 {
            return Err(not_safe(&folder));
        }
    }
    Ok(folder)
}

/// Makes the directory of the locks of all users. Its owner can remove any lock, so it has to be root's, or that
/// of somebody who could as well remove the volumes.
fn make_users_folder(host: &Host) -> Result<PathBuf> {
    let folder = host.path(OF_USERS);
    match create(&folder, 0o1777)? {
        Some(made) => _ = prove_membership(&made),
        None => {
            let metadata = open(&folder)?.metadata().at("look at", &folder)?;
            let own = [0, rustix::process::geteuid().as_raw()].contains(&metadata.uid());
            if !own && !members().contains(&metadata.gid()) {
                return Err(not_safe(&folder));
            }
        }
    }
    Ok(folder)
}

/// Makes a directory with this mode, whatever the umask; none when there is one.
fn create(folder: &Path, mode: u32) -> Result<Option<File>> {
    match DirBuilder::new().mode(0o700).create(folder) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(None),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            fs::create_dir_all(folder.parent().unwrap_or(folder)).at("create", folder)?;
            create(folder, mode)
        }
        made => {
            made.at("create", folder)?;
            let made = open(folder)?;
            made.set_permissions(Permissions::from_mode(mode)).at("open up", folder)?;
            Ok(Some(made))
        }
    }
}

/// Has root own the directory of the others' locks, so that they can take away only their own.
fn take_over(host: &Host) {
    if let Ok(folder) = open(&host.path(OF_USERS))
        && folder.metadata().is_ok_and(|metadata| metadata.uid() != 0)
        && fchown(&folder, Some(0), Some(0)).is_ok()
    {
        let _ = folder.set_permissions(Permissions::from_mode(0o1777));
    }
}

fn not_safe(folder: &Path) -> Error {
    let shown = folder.display();
    Error::permission(format!("the directory of locks {shown} belongs to another user"))
        .hint(format!("as root, rm -r '{shown}'"))
}

fn open(folder: &Path) -> Result<File> {
    let flags = (OFlags::NOFOLLOW | OFlags::DIRECTORY).bits().cast_signed();
    match OpenOptions::new().read(true).custom_flags(flags).open(folder) {
        Err(error) if is_no_directory(&error) => Err(not_safe(folder).because(error)),
        opened => opened.at("open", folder),
    }
}

/// Opens a directory for its names alone, for which no permission to read it is needed.
fn open_path(folder: &Path) -> io::Result<File> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::DIRECTORY;
    OpenOptions::new().read(true).custom_flags(flags.bits().cast_signed()).open(folder)
}

/// Whether a directory could not be opened since it is a link or something else.
fn is_no_directory(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotADirectory || error.raw_os_error() == Some(LOOP)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAME: &str = "overlay.abcDEF012345678.qcow2";

    fn folder(host: &Host) -> PathBuf {
        host.path(if is_root() { OF_ROOT } else { OF_USERS })
    }

    #[test]
    fn a_lock_lasts_as_long_as_its_holder() {
        let root = tempfile::tempdir().unwrap();
        let host = Host::new(root.path());
        assert!(!is_in_flight(&host, NAME).unwrap());
        let held = InFlight::begin(&host, NAME).unwrap();
        assert_eq!(held.path.metadata().unwrap().mode() & 0o777, 0o600);
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
        assert!(held.path.exists(), "a held lock was taken for a stale one");
    }

    #[test]
    fn a_lock_that_others_can_open_does_not_count() {
        let root = tempfile::tempdir().unwrap();
        let host = Host::new(root.path());
        let path = host.path(OF_USERS).join(NAME);
        fs::create_dir_all(host.path(OF_USERS)).unwrap();
        let lock = File::create(&path).unwrap();
        flock(&lock, FlockOperation::NonBlockingLockExclusive).unwrap();
        for (mode, is_lock) in [(0o600, true), (0o640, false), (0o666, false)] {
            lock.set_permissions(Permissions::from_mode(mode)).unwrap();
            assert_eq!(is_in_flight(&host, NAME).unwrap(), is_lock, "{mode:o}");
        }
        fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("/dev/null", &path).unwrap();
        assert!(!is_in_flight(&host, NAME).unwrap(), "followed a link");
    }

    #[test]
    fn what_is_no_directory_of_locks_holds_no_lock() {
        let root = tempfile::tempdir().unwrap();
        let host = Host::new(root.path());
        let (users, other) = (host.path(OF_USERS), root.path().join("other"));
        fs::create_dir_all(users.parent().unwrap()).unwrap();
        fs::create_dir(&other).unwrap();
        let lock = File::create(other.join(NAME)).unwrap();
        lock.set_permissions(Permissions::from_mode(0o600)).unwrap();
        flock(&lock, FlockOperation::NonBlockingLockExclusive).unwrap();
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
        // Nothing is removed from a directory that a link leads to, nor what is no lock file.
        let (other, full) = (root.path().join("other"), root.path().join("other/full"));
        fs::create_dir(&other).unwrap();
        fs::write(other.join("empty"), "").unwrap();
        fs::write(&full, "text").unwrap();
        for name in [OF_ROOT, OF_USERS] {
            let link = host.path(name);
            fs::create_dir_all(link.parent().unwrap()).unwrap();
            let _ = fs::remove_dir(&link);
            std::os::unix::fs::symlink(&other, &link).unwrap();
            sweep(&host);
            assert_eq!(fs::read_dir(&other).unwrap().count(), 2, "{name}: a link was followed");
            fs::remove_file(&link).unwrap();
            fs::rename(&other, &link).unwrap();
            sweep(&host);
            assert_eq!(fs::read_dir(&link).unwrap().count(), 1, "{name}");
            fs::write(link.join("empty"), "").unwrap();
            fs::rename(&link, &other).unwrap();
        }
        if is_root() {
            let users = host.path(OF_USERS);
            fs::create_dir_all(&users).unwrap();
            std::os::unix::fs::chown(&users, Some(65534), Some(65534)).unwrap();
            sweep(&host);
            let metadata = users.metadata().unwrap();
            assert_eq!((metadata.uid(), metadata.mode() & 0o7777), (0, 0o1777));
        }
    }
}
