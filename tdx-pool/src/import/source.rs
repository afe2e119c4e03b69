//! The image file that is imported.

use std::fs::File;
use std::path::{Path, PathBuf};

use common::{Error, IoContext, Result};

use crate::image::record::Identity;
use crate::image::{self, Format, Image};
use crate::import::copy;

/// An opened, checked image file. Its owner may write to it at any time: what was read of it holds for
/// a copy only when it was read from that copy.
#[derive(Debug)]
pub struct Source {
    /// As the user named it, made absolute.
    pub path: PathBuf,
    /// What its header says.
    pub image: Image,
    pub(crate) file: File,
    /// The file as it was when it was checked.
    pub(crate) identity: Identity,
}

impl Source {
    /// Opens an image and checks that it can be a base.
    ///
    /// Errors: `not_found`, `permission`; `invalid_input` for what is no image or not a whole one.
    pub fn open(path: &Path) -> Result<Self> {
        let path = std::path::absolute(path).at("resolve", path)?;
        let file = image::open(&path)?;
        // Known before it is read: a change while it is read is a change.
        let identity = (&file.metadata().at("examine", &path)?).into();
        let image = image::check_base(&file, &path)?;
        Ok(Self { path, image, file, identity })
    }

    /// Opens the same file again, to read it from its start.
    pub fn reopen(&self) -> Result<File> {
        File::open(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&self.file)))
            .at("open", &self.path)
    }

    /// The SHA-256 of its bytes, hexadecimal.
    pub(crate) fn sha256(&self) -> Result<String> {
        copy::sha256_of(&self.file)
    }

    /// The number of bytes at the image's start that an upload sends last: the magic number, or the boot
    /// record.
    pub(crate) fn head_length(&self) -> usize {
        match self.image.format {
            Format::Qcow2 => 4,
            Format::Raw => 512,
        }
    }

    /// Fails when the file was written to since it was opened.
    ///
    /// Errors: `conflict`.
    pub(crate) fn check_unchanged(&self) -> Result<()> {
        if self.identity == (&self.file.metadata().at("examine", &self.path)?).into() {
            Ok(())
        } else {
            Err(self.changed())
        }
    }

    /// The error for a file that was written to since it was opened.
    pub(crate) fn changed(&self) -> Error {
        Error::conflict(format!("{} changed while it was read", self.path.display()))
            .hint("stop what writes to it, then try again")
    }
}
