//! A file that is deleted only as the file that was checked: not a link, and not what has taken its name since.

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

/// What is at a path.
#[derive(Debug)]
pub enum PathContent {
    /// Nothing.
    Nothing,
    /// A regular file.
    File(CheckedFile),
    /// Anything else, in words.
    Other(&'static str),
    /// Nobody knows: this process cannot look there, and the path is in no pool that is started.
    Unseen,
}

/// What became of a file that was to be deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deletion {
    /// It is deleted.
    Done,
    /// It was deleted by another command.
    WasGone,
    /// Another file has its name, and stays.
    Replaced,
}

/// A regular file that was checked.
#[derive(Debug)]
pub struct CheckedFile {
    path: PathBuf,
    /// None for a file that only libvirtd can look at.
    entry: Option<Entry>,
}

/// A file as an entry of its directory.
#[derive(Debug)]
struct Entry {
    directory: OwnedFd,
    name: OsString,
    /// Keeps the file system from giving the number of the file to another one.
    _file: OwnedFd,
    device: u64,
    inode: u64,
}

impl CheckedFile {
    /// Looks at a path and follows no link at its end.
    ///
    /// A file that this process cannot look at is taken from libvirt, which knows the volumes of its pools.
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
        let kind = volume.info().context(format_args!("look at {}", path.display()))?.kind;
        Ok(match kind {
            sys::VIR_STORAGE_VOL_FILE => {
                PathContent::File(Self { path: path.to_owned(), entry: None })
            }
            _ => PathContent::Other("not a regular file"),
        })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Deletes the file, through its pool where libvirt has it as a volume, and then the secret with the
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
            // The pool may be behind the times: the directory decides.
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
    /// The regular file at a path, else what is there instead.
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

    /// Why there is nothing to delete; none while the directory has this very file under its name.
    fn has_gone(&self) -> rustix::io::Result<Option<Deletion>> {
        match statat(&self.directory, self.name.as_os_str(), AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => Ok(Some(Deletion::WasGone)),
            Err(error) => Err(error),
            Ok(stat) => Ok((!self.is(&stat)).then_some(Deletion::Replaced)),
        }
    }

    /// Whether libvirt would delete this very file.
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
        found => found.context(format_args!("look for the volume {shown}")).map(Some),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn only_a_regular_file_is_found() {
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
