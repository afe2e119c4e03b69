//! The image file to import.

use std::fs::File;
use std::path::{Path, PathBuf};

use common::{Error, IoContext, Result};

use crate::image::record::Identity;
use crate::image::{self, Format, Image};
use crate::import::copy;

/// An opened, checked image file. Its owner may write to the file at any time. Facts about a copy of the file are
/// therefore read from the copy.
#[derive(Debug)]
pub struct Source {
    /// The absolute path of the file, as the user named it.
    pub path: PathBuf,
    /// The description from its header.
    pub image: Image,
    pub(crate) file: File,
    /// The identity and state of the file when it was checked.
    pub(crate) identity: Identity,
}

impl Source {
    /// Opens an image and checks that it can be a base image.
    ///
    /// Errors: `not_found`, `permission`; `invalid_input` for a file that is no image, or an incomplete one.
    pub fn open(path: &Path) -> Result<Self> {
        let path = std::path::absolute(path).at("resolve", path)?;
        let file = image::open(&path)?;
        // Taken before the read, so that a change during the read is detected.
        let identity = (&file.metadata().at("examine", &path)?).into();
        let image = image::check_base(&file, &path)?;
        Ok(Self { path, image, file, identity })
    }

    /// Opens the same file again, to read the file from its start.
    pub fn reopen(&self) -> Result<File> {
        File::open(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&self.file)))
            .at("open", &self.path)
    }

    /// The SHA-256 digest of the file, in hexadecimal digits.
    pub(crate) fn sha256(&self) -> Result<String> {
        copy::sha256_of(&self.file)
    }

    /// The number of bytes at the start of the image that an upload sends last: the magic number, or the boot record.
    pub(crate) fn head_length(&self) -> usize {
        match self.image.format {
            Format::Qcow2 => 4,
            Format::Raw => 512,
        }
    }

    /// Fails if the file was written to after it was opened.
    ///
    /// Errors: `conflict`.
    pub(crate) fn check_unchanged(&self) -> Result<()> {
        if self.identity == (&self.file.metadata().at("examine", &self.path)?).into() {
            Ok(())
        } else {
            Err(self.changed())
        }
    }

    /// The error for a file that was written to after it was opened.
    pub(crate) fn changed(&self) -> Error {
        Error::conflict(format!("{} changed while it was read", self.path.display()))
            .hint("stop the program that writes to the image, then run this command again")
    }
}
