//! A file that was checked before its deletion. A link, or another file that has taken its name, is never deleted.

use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use common::cli::log;
use common::libvirt::{Context, Libvirt, is_gone};
use common::{ErrorKind, IoContext, Result, path};
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, Stat, fstat, openat, statat, unlinkat};
use rustix::io::Errno;
use virt::storage_vol::StorageVol;
use virt::sys;

use crate::volume::names::ToolFile;
use crate::volume::secret;

/// The kind of entry at a path.
#[derive(Debug)]
pub enum PathContent {
    /// No entry.
    Nothing,
    /// A regular file.
    File(CheckedFile),
    /// Another kind of entry, described for messages.
    Other(&'static str),
    /// Unknown, because this process cannot examine the path and no active pool contains it.
    Unseen,
}

/// The result of deleting a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deletion {
    /// The file was deleted.
    Done,
    /// Another command had deleted the file.
    WasGone,
    /// Another file has the name and was kept.
    Replaced,
}

/// A regular file that was checked.
#[derive(Debug)]
pub struct CheckedFile {
    path: PathBuf,
    /// None for a file that only libvirtd can examine.
    entry: Option<Entry>,
}

/// A file, identified by an entry of its directory.
#[derive(Debug)]
struct Entry {
    directory: OwnedFd,
    name: OsString,
    /// The open file, which keeps the file system from reusing its inode number.
    _file: OwnedFd,
    device: u64,
    inode: u64,
}

impl CheckedFile {
    /// Examines a path without following a link at its end.
    ///
    /// If this process cannot examine the file, libvirt is asked, which knows the volumes of its pools.
    ///
    /// Errors: `io`; those of libvirt.
    pub fn find(libvirt: &Libvirt, path: &Path) -> Result<PathContent> {
        if libvirt.is_local() {
            match Entry::find(path) {
                Err(Errno::ACCESS | Errno::PERM) => {}
                Err(Errno::NOENT | Errno::NOTDIR) => return Ok(PathContent::Nothing),
                Err(error) => return Err(error).at("examine", path),
                Ok(Err(kind)) => return Ok(PathContent::Other(kind)),
                Ok(Ok(entry)) => {
                    return Ok(PathContent::File(Self {
                        path: path.to_owned(),
                        entry: Some(entry),
                    }));
                }
            }
        }
        let Some(volume) = volume(libvirt, path)? else { return Ok(PathContent::Unseen) };
        let kind = volume.info().context(format_args!("examine {}", path.display()))?.kind;
        Ok(match kind {
            sys::VIR_STORAGE_VOL_FILE => {
                PathContent::File(Self { path: path.to_owned(), entry: None })
            }
            _ => PathContent::Other("not a regular file"),
        })
    }

    /// The path of the file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Deletes the file, through its pool if libvirt has the file as a volume. Then deletes the secret with the
    /// passphrase of an encrypted disk.
    ///
    /// Errors: `io`, `permission`; those of libvirt.
    pub fn delete(&self, libvirt: &Libvirt) -> Result<Deletion> {
        log::step(format_args!("delete {}", self.path.display()));
        let deletion = match &self.entry {
            None => self.delete_volume(libvirt)?,
            Some(entry) => self.delete_entry(libvirt, entry)?,
        };
        if deletion != Deletion::Replaced
            && ToolFile::classify_path(&self.path) == Some(ToolFile::Disk)
        {
            secret::forget(libvirt, &self.path)?;
        }
        Ok(deletion)
    }

    fn delete_volume(&self, libvirt: &Libvirt) -> Result<Deletion> {
        let Some(volume) = volume(libvirt, &self.path)? else { return Ok(Deletion::WasGone) };
        match volume.delete(sys::VIR_STORAGE_VOL_DELETE_NORMAL) {
            Err(error) if is_gone(&error) => Ok(Deletion::WasGone),
            deleted => deleted
                .context(format_args!("delete {}", self.path.display()))
                .map(|()| Deletion::Done),
        }
    }

    fn delete_entry(&self, libvirt: &Libvirt, entry: &Entry) -> Result<Deletion> {
        if let Some(gone) = entry.has_gone().at("examine", &self.path)? {
            return Ok(gone);
        }
        let volume = volume(libvirt, &self.path)?.filter(|volume| entry.is_volume(volume));
        let refused = match volume.map(|volume| volume.delete(sys::VIR_STORAGE_VOL_DELETE_NORMAL)) {
            Some(Ok(())) => return Ok(Deletion::Done),
            // The pool's list may be outdated, so the directory decides.
            Some(Err(error)) => Some(error),
            None => None,
        };
        if let Some(gone) = entry.has_gone().at("examine", &self.path)? {
            return Ok(gone);
        }
        let unlinked = unlinkat(&entry.directory, entry.name.as_os_str(), AtFlags::empty());
        match (unlinked, refused) {
            (Ok(()), _) => Ok(Deletion::Done),
            (Err(Errno::NOENT), _) => Ok(Deletion::WasGone),
            (Err(_), Some(error)) => {
                Err(error).context(format_args!("delete {}", self.path.display()))
            }
            (Err(error), None) => Err(error).at("delete", &self.path),
        }
    }
}

impl Entry {
    /// The regular file at a path, or a description of another kind of entry.
    fn find(path: &Path) -> rustix::io::Result<Result<Self, &'static str>> {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Ok(Err("not a regular file"));
        };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = openat(CWD, parent, flags, Mode::empty())?;
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = openat(&directory, name, flags, Mode::empty())?;
        let stat = fstat(&file)?;
        Ok(match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => Ok(Self {
                directory,
                name: name.to_owned(),
                _file: file,
                device: stat.st_dev,
                inode: stat.st_ino,
            }),
            FileType::Symlink => Err("a symbolic link"),
            _ => Err("not a regular file"),
        })
    }

    /// The reason why the file can no longer be deleted; none while the directory still has this file under its name.
    fn has_gone(&self) -> rustix::io::Result<Option<Deletion>> {
        match statat(&self.directory, self.name.as_os_str(), AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => Ok(Some(Deletion::WasGone)),
            Err(error) => Err(error),
            Ok(stat) => Ok((!self.is(&stat)).then_some(Deletion::Replaced)),
        }
    }

    /// Whether libvirt would delete the same file.
    fn is_volume(&self, volume: &StorageVol) -> bool {
        let path = volume.path().unwrap_or_default();
        statat(CWD, path, AtFlags::SYMLINK_NOFOLLOW).is_ok_and(|stat| self.is(&stat))
    }

    fn is(&self, stat: &Stat) -> bool {
        (stat.st_dev, stat.st_ino) == (self.device, self.inode)
    }
}

/// libvirt's volume at a path.
fn volume(libvirt: &Libvirt, path: &Path) -> Result<Option<StorageVol>> {
    let shown = path.display();
    let path = path::utf8("path", path, ErrorKind::InvalidInput)?;
    match libvirt.connect().lookup_storage_vol_by_path(path) {
        Err(error) if is_gone(&error) => Ok(None),
        found => found.context(format_args!("look up the volume {shown}")).map(Some),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn find_accepts_only_a_regular_file() {
        let root = tempfile::tempdir().unwrap();
        let path = |name: &str| root.path().join(name);
        fs::write(path("file"), "").unwrap();
        symlink("file", path("link")).unwrap();
        fs::create_dir(path("directory")).unwrap();
        assert!(Entry::find(&path("file")).unwrap().is_ok());
        assert_eq!(Entry::find(&path("link")).unwrap().unwrap_err(), "a symbolic link");
        assert_eq!(Entry::find(&path("directory")).unwrap().unwrap_err(), "not a regular file");
        assert_eq!(Entry::find(Path::new("/")).unwrap().unwrap_err(), "not a regular file");
        assert_eq!(Entry::find(&path("absent")).unwrap_err(), Errno::NOENT);
    }

    #[test]
    fn a_file_that_was_replaced_is_not_the_file_that_was_found() {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join("file");
        fs::write(&file, "").unwrap();
        let entry = Entry::find(&file).unwrap().unwrap();
        assert_eq!(entry.has_gone(), Ok(None));
        fs::write(root.path().join("other"), "").unwrap();
        fs::rename(root.path().join("other"), &file).unwrap();
        assert_eq!(entry.has_gone(), Ok(Some(Deletion::Replaced)));
        fs::remove_file(&file).unwrap();
        symlink("anything", &file).unwrap();
        assert_eq!(entry.has_gone(), Ok(Some(Deletion::Replaced)));
        fs::remove_file(&file).unwrap();
        assert_eq!(entry.has_gone(), Ok(Some(Deletion::WasGone)));
    }
}
