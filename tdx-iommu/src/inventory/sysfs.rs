//! Reads the attributes in a directory of sysfs with few system calls.

use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags, openat, readlinkat};
use rustix::io::{Errno, pread};

/// The largest sysfs attribute. Unit: bytes.
const PAGE: usize = 4096;

/// An open directory of attributes.
#[derive(Debug)]
pub(crate) struct AttributeDirectory(OwnedFd);

impl AttributeDirectory {
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self(openat(CWD, path, flags, Mode::empty())?))
    }

    /// The file of an attribute; none when the device has no such attribute, or was removed.
    pub(crate) fn file(&self, name: &str) -> io::Result<Option<OwnedFd>> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        absent(openat(&self.0, name, flags, Mode::empty()))
    }

    /// The result of `read` for the text of an attribute without the newline at its end.
    pub(crate) fn text<T>(
        &self,
        name: &str,
        read: impl FnOnce(&str) -> T,
    ) -> io::Result<Option<T>> {
        let Some(file) = self.file(name)? else { return Ok(None) };
        let mut page = [0; PAGE];
        let Some(length) = absent(pread(&file, &mut page, 0))? else { return Ok(None) };
        let text = std::str::from_utf8(&page[..length])
            .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "the value is not UTF-8"))?;
        Ok(Some(read(text.trim_end_matches('\n'))))
    }

    /// The last component of the target of a symbolic link, such as the name of a driver or the number of a group.
    pub(crate) fn link(&self, name: &str) -> io::Result<Option<String>> {
        let target = absent(readlinkat(&self.0, name, Vec::with_capacity(128)))?;
        Ok(target.map(|target| {
            let target = OsString::from_vec(target.into_bytes());
            Path::new(&target).file_name().unwrap_or_default().to_string_lossy().into_owned()
        }))
    }

    /// Whether the directory has an entry with this name.
    pub(crate) fn has(&self, name: &str) -> bool {
        rustix::fs::accessat(
            &self.0,
            name,
            rustix::fs::Access::EXISTS,
            rustix::fs::AtFlags::empty(),
        )
        .is_ok()
    }
}

/// Converts the error of an absent file to none.
fn absent<T>(result: Result<T, Errno>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(Errno::NOENT | Errno::NODEV | Errno::NXIO) => Ok(None),
        Err(error) => Err(error.into()),
    }
}
