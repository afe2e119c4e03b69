//! An image with its sections.

use std::path::Path;

use common::document::input;
use common::{Error, IoContext, Result};
use sha2::{Digest as _, Sha256};

use crate::tdvf::metadata::{self, Section};

/// The largest image that is read; OVMF has 4 MiB. Unit: bytes.
const LIMIT: usize = 64 << 20;

/// The firmware of a trust domain: an image whose metadata was checked.
#[derive(Debug)]
pub struct Tdvf {
    bytes: Vec<u8>,
    sections: Vec<Section>,
}

impl Tdvf {
    /// Reads an image from a file.
    ///
    /// Errors: `not_found`, `permission`; `invalid_input` for anything but a regular file, for an empty file, for one of
    /// more than 64 MiB, and for one that is not a TDVF image.
    pub fn read(path: &Path) -> Result<Self> {
        let shown = path.display();
        if !std::fs::metadata(path).at("read", path)?.is_file() {
            return Err(Error::invalid_input(format!("{shown} is not a regular file")));
        }
        let bytes = input::file(path, LIMIT)?;
        if bytes.is_empty() {
            return Err(Error::invalid_input(format!("{shown} is empty")));
        }
        Self::parse(bytes).map_err(|why| {
            Error::invalid_input(format!("{shown} is not a TDVF image: {why}")).hint(
                "to see the firmware for trust domains on a host, run tdx-td firmware -f intel-tdx",
            )
        })
    }

    /// Checks an image.
    ///
    /// Errors: the reason why QEMU could not start a trust domain with the image, or why its MRTD is not defined.
    pub fn parse(bytes: Vec<u8>) -> Result<Self, String> {
        let sections = metadata::sections(&bytes)?;
        Ok(Self { bytes, sections })
    }

    /// The sections, in the order of the metadata.
    pub fn sections(&self) -> &[Section] {
        &self.sections
    }

    /// The content of a section of this image; empty for an area without a content.
    pub fn content(&self, section: &Section) -> &[u8] {
        &self.bytes[section.data.clone()]
    }

    /// The SHA-256 of the image, by which its packages and users know it.
    pub fn sha256(&self) -> [u8; 32] {
        Sha256::digest(&self.bytes).into()
    }
}
