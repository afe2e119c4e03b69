//! Detects whether a file was written to while it was read.

use std::fs::File;
use std::os::unix::fs::MetadataExt;

use common::error::{Error, ErrorKind, Result};

/// The state of a file that changes when the file is written to. It includes the time of the last change of the inode,
/// because users can set the time of the last change of the content.
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
        .hint("stop the program that writes to the image, then run this command again")
}
