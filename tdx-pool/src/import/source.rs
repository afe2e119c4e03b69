//! The image file that is imported.

use std::fs::File;
use std::path::{Path, PathBuf};

use common::{Error, IoContext, Result, interrupt};

use crate::copy::{self, Watch};
use crate::image::{self, Image};
use crate::record::Identity;

/// An opened, checked image file.
#[derive(Debug)]
pub struct Source {
    /// As the user named it, made absolute.
    pub path: PathBuf,
    /// What its header says.
    pub image: Image,
    pub(super) file: File,
    /// The file as it was when it was checked.
    pub(super) identity: Identity,
}

impl Source {
    /// Opens an image and checks that it can be a base.
    ///
    /// Errors: `not_found`, `permission`; `invalid_input` for what is no image or not a whole one.
    pub fn open(path: &Path) -> Result<Self> {
        let path = std::path::absolute(path).at("name", path)?;
        let file = image::open(&path)?;
        let image = image::check_base(&file, &path)?;
        let identity = (&file.metadata().at("look at", &path)?).into();
        Ok(Self { path, image, file, identity })
    }

    /// The same file read from its start.
    pub fn reopen(&self) -> Result<File> {
        File::open(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&self.file)))
            .at("open", &self.path)
    }

    /// The SHA-256 of its bytes, hexadecimal.
    pub(crate) fn sha256(&self) -> Result<String> {
        let mut watch = Watch { progress: &mut |_, _| {}, interrupt: &interrupt::check };
        copy::sha256(&self.file, &mut watch)
    }

    /// Fails when the file was written to since it was opened.
    pub(crate) fn check_unchanged(&self) -> Result<()> {
        if self.identity == (&self.file.metadata().at("look at", &self.path)?).into() {
            return Ok(());
        }
        Err(Error::conflict(format!("{} changed while it was read", self.path.display()))
            .hint("stop what writes to it, then try again"))
    }
}
