//! Whether a file was written to while it was read.

use std::fs::File;
use std::os::unix::fs::MetadataExt;

use common::error::{Error, ErrorKind, Result};

/// What tells that a file was written to. A user can set the time of the last change of its content,
/// but not that of its inode.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct State {
    pub(super) size: u64,
    content_changed: (i64, i64),
    inode_changed: (i64, i64),
}

impl State {
    pub(super) fn read(file: &File) -> Result<Self> {
        let metadata = file.metadata().map_err(|error| {
            Error::new(ErrorKind::Io, "cannot examine the image").because(error)
        })?;
        Ok(Self {
            size: metadata.len(),
            content_changed: (metadata.mtime(), metadata.mtime_nsec()),
            inode_changed: (metadata.ctime(), metadata.ctime_nsec()),
        })
    }

    pub(super) fn check(&self, file: &File) -> Result<()> {
        if *self == Self::read(file)? { Ok(()) } else { Err(changed()) }
    }
}

/// The error for a file that was written to while it was read.
pub(super) fn changed() -> Error {
    Error::conflict("the image changed while it was read")
        .hint("stop what writes to it, then try again")
}
