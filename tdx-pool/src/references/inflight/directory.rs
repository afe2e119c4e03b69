//! The directories of lock files.
//!
//! All users can write to `/run/lock`, so our name in it may be a link to any directory. Each directory is opened once,
//! without following a link, and its files are opened relative to the open directory.

use std::fs::{self, DirBuilder, File, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use common::system::sysroot::Host;
use common::{Error, IoContext, Result};
use rustix::fs::{AtFlags, Dir, Mode, OFlags, openat, statat, unlinkat};
use rustix::io::Errno;

use super::membership::{is_root, members, prove_membership};

/// The directory of root's locks. All users can see which names are locked.
const OF_ROOT: &str = "/run/tdx-pool";

/// The directory of other users' locks. Members of the group libvirt create overlays as well.
const OF_USERS: &str = "/run/lock/tdx";

/// The users whose locks a directory contains.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LockOwner {
    /// Root.
    Root,
    /// All other users.
    Users,
}

impl LockOwner {
    /// The owners of both directories of locks.
    pub(super) const ALL: [Self; 2] = [Self::Root, Self::Users];

    /// The owner of the directory in which this process takes locks.
    pub(super) fn current() -> Self {
        if is_root() { Self::Root } else { Self::Users }
    }

    /// The owner of the directory in which this process only looks for locks.
    pub(super) fn other() -> Self {
        if is_root() { Self::Users } else { Self::Root }
    }

    /// The path of the directory.
    pub(super) fn path(self, host: &Host) -> PathBuf {
        host.path(if self == Self::Root { OF_ROOT } else { OF_USERS })
    }
}

/// An open directory of locks.
#[derive(Debug)]
pub(super) struct LockDirectory {
    pub(super) owner: LockOwner,
    path: PathBuf,
    file: File,
}

impl LockDirectory {
    /// Opens the directory. None when the directory is absent, or when another user has put something else in its
    /// place.
    ///
    /// Errors: `permission` or `io` when the directory cannot be opened.
    pub(super) fn open(host: &Host, owner: LockOwner) -> Result<Option<Self>> {
        let path = owner.path(host);
        match open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) if owner == LockOwner::Users && is_no_directory(&error) => Ok(None),
            file => Ok(Some(Self { owner, file: file.at("open", &path)?, path })),
        }
    }

    /// Opens the directory of this user's locks, and creates it if it is absent.
    ///
    /// Errors: `permission` for a directory in which other users could remove this user's locks.
    pub(super) fn make(host: &Host) -> Result<Self> {
        if is_root() {
            take_over(host);
        }
        let owner = LockOwner::current();
        let path = owner.path(host);
        let is_new = create(&path).at("create", &path)?;
        let file = match open(&path) {
            Err(error) if is_no_directory(&error) => return Err(not_safe(&path)),
            file => file.at("open", &path)?,
        };
        let directory = Self { owner, file, path };
        if is_new {
            // Set explicitly, because the umask may have removed bits.
            let mode = if owner == LockOwner::Root { 0o711 } else { 0o1777 };
            let opened_up = directory.file.set_permissions(Permissions::from_mode(mode));
            opened_up.at("set the permissions of", &directory.path)?;
            if owner == LockOwner::Users {
                prove_membership(&directory.file);
            }
        }
        if directory.is_safe()? { Ok(directory) } else { Err(not_safe(&directory.path)) }
    }

    /// Whether only users who could also delete the volumes can remove a lock in this directory.
    fn is_safe(&self) -> Result<bool> {
        let metadata = self.file.metadata().at("examine", &self.path)?;
        Ok(match self.owner {
            LockOwner::Root => metadata.uid() == 0 && metadata.mode() & 0o022 == 0,
            LockOwner::Users => {
                let own = [0, rustix::process::geteuid().as_raw()].contains(&metadata.uid());
                own || members().contains(&metadata.gid())
            }
        })
    }

    /// The path of the lock file with this name, for messages.
    pub(super) fn path_of(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Opens the lock file with this name for reading.
    pub(super) fn lock_file(&self, name: &str) -> io::Result<File> {
        self.open_at(name, OFlags::RDONLY)
    }

    /// Opens the lock file with this name for writing, and creates it if it is absent.
    pub(super) fn open_or_create(&self, name: &str) -> io::Result<File> {
        self.open_at(name, OFlags::WRONLY | OFlags::CREATE)
    }

    /// Creates the lock file with this name.
    pub(super) fn create_new(&self, name: &str) -> io::Result<File> {
        self.open_at(name, OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL)
    }

    /// Opens a file without following a link and without blocking, because any user may have created the file.
    fn open_at(&self, name: &str, flags: OFlags) -> io::Result<File> {
        let flags = flags | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        Ok(openat(&self.file, name, flags, Mode::RUSR | Mode::WUSR)?.into())
    }

    /// Whether the directory has an entry with this name.
    pub(super) fn has(&self, name: &str) -> io::Result<bool> {
        match statat(&self.file, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => Ok(false),
            found => Ok(found.map(|_| true)?),
        }
    }

    /// Removes the lock file with this name, if it exists.
    pub(super) fn remove(&self, name: &str) {
        let _ = unlinkat(&self.file, name, AtFlags::empty());
    }

    /// The names of all entries of the directory; empty when the directory cannot be listed.
    pub(super) fn names(&self) -> Vec<String> {
        let entries = Dir::read_from(&self.file).into_iter().flatten().flatten();
        let names = entries.filter_map(|entry| entry.file_name().to_str().ok().map(str::to_owned));
        names.filter(|name| name != "." && name != "..").collect()
    }
}

/// Makes root the owner of the users' directory of locks, so that each user can remove only their own locks.
pub(super) fn take_over(host: &Host) {
    if let Ok(Some(LockDirectory { file, .. })) = LockDirectory::open(host, LockOwner::Users)
        && file.metadata().is_ok_and(|metadata| metadata.uid() != 0)
        && fchown(&file, Some(0), Some(0)).is_ok()
    {
        let _ = file.set_permissions(Permissions::from_mode(0o1777));
    }
}

/// Creates a directory that no other user can enter yet. Returns whether it was absent.
fn create(path: &Path) -> io::Result<bool> {
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            fs::create_dir_all(path.parent().unwrap_or(path))?;
            create(path)
        }
        made => made.map(|()| true),
    }
}

/// Opens a directory without following a link. A directory that this user cannot list is opened with `O_PATH`.
fn open(path: &Path) -> io::Result<File> {
    let flags = OFlags::NOFOLLOW | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let file = match rustix::fs::open(path, flags | OFlags::RDONLY, Mode::empty()) {
        Err(Errno::ACCESS) => rustix::fs::open(path, flags | OFlags::PATH, Mode::empty())?,
        file => file?,
    };
    Ok(file.into())
}

/// Whether a directory could not be opened because another kind of file, such as a link, has its name.
fn is_no_directory(error: &io::Error) -> bool {
    let code = error.raw_os_error();
    [Errno::LOOP, Errno::NOTDIR].iter().any(|errno| code == Some(errno.raw_os_error()))
}

fn not_safe(path: &Path) -> Error {
    let shown = path.display();
    Error::permission(format!("the lock directory {shown} belongs to another user"))
        .hint(format!("sudo rm -r '{shown}'"))
}
