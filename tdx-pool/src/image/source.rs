//! An open file that may be an image and is treated as hostile.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, FileTypeExt};
use std::path::Path;

use common::error::{Error, IoContext, Result};
use rustix::fs::SeekFrom;
use rustix::io::Errno;

/// The hint for a file that cannot be converted to an image.
pub(super) const NAME_ONE: &str = "pass a disk image in qcow2 or raw format";

/// The kind of a file: whether it can contain an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    File,
    Block,
    /// Another kind of file, described for messages.
    Other(&'static str),
}

/// A file that may be an image, with its name for messages.
#[derive(Debug)]
pub(super) struct Source<'a> {
    pub(super) file: &'a File,
    pub(super) name: &'a Path,
    pub(super) kind: Kind,
    pub(super) size: u64,
}

impl<'a> Source<'a> {
    pub(super) fn new(file: &'a File, name: &'a Path) -> Result<Self> {
        let metadata = file.metadata().at("examine", name)?;
        let file_type = metadata.file_type();
        let (kind, size) = if file_type.is_file() {
            (Kind::File, metadata.len())
        } else if file_type.is_block_device() {
            (Kind::Block, rustix::fs::seek(file, SeekFrom::End(0)).at("examine", name)?)
        } else if file_type.is_dir() {
            (Kind::Other("a directory"), 0)
        } else if file_type.is_fifo() {
            (Kind::Other("a named pipe"), 0)
        } else if file_type.is_char_device() {
            (Kind::Other("a character device"), 0)
        } else {
            (Kind::Other("a socket"), 0)
        };
        Ok(Self { file, name, kind, size })
    }

    /// Reads at most `len` bytes from offset `at`; fewer only at the end of the file.
    pub(super) fn read(&self, at: u64, len: usize) -> Result<Vec<u8>> {
        let mut bytes = vec![0; len];
        let mut filled = 0;
        while filled < len {
            match self.file.read_at(&mut bytes[filled..], at + filled as u64) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error).at("read", self.name),
            }
        }
        bytes.truncate(filled);
        Ok(bytes)
    }

    /// The offset of the first data at or after `at`; the end of the file if only a hole follows.
    pub(super) fn next_data(&self, at: u64) -> u64 {
        match rustix::fs::seek(self.file, SeekFrom::Data(at)) {
            Ok(data) => data,
            Err(Errno::NXIO) => self.size,
            // On a file system without holes, everything is data.
            Err(_) => at,
        }
    }

    /// An `invalid_input` error whose message begins with the name of the file.
    pub(super) fn invalid(&self, what: impl AsRef<str>) -> Error {
        Error::invalid_input(format!("{} {}", self.name.display(), what.as_ref()))
    }

    /// The error for a file that ends before `end`, the end of what the file refers to.
    pub(super) fn truncated(&self, end: u64) -> Error {
        let size = self.size;
        self.invalid(format!("is truncated: it has {size} bytes and needs at least {end}"))
            .hint("copy or download the image again")
    }
}

/// The error for a file of a kind that cannot contain an image.
pub(super) fn no_image(name: &Path, what: &str) -> Error {
    Error::invalid_input(format!("{} is {what}", name.display())).hint(NAME_ONE)
}
