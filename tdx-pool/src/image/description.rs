//! The description of an image, from its header.

use crate::image::backing::Backing;
use crate::image::format::Format;

/// The description of an image, from its header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// The format of the image.
    pub format: Format,
    /// The size of the disk as the guest sees it.
    pub virtual_size_bytes: u64,
    /// The length of the file, holes included.
    pub file_size_bytes: u64,
    /// The backing image, if this image is an overlay.
    pub backing: Option<Backing>,
    /// Whether the guest's data is in an external data file.
    pub data_file: bool,
    /// Whether the guest's data is encrypted.
    pub encrypted: bool,
    /// Whether QEMU has marked the image as corrupt.
    pub corrupt: bool,
    /// Whether the image was not closed cleanly. Then only its reference counts may be outdated.
    pub dirty: bool,
}

impl Image {
    /// A raw disk of this many bytes.
    pub(super) fn raw(size: u64) -> Self {
        Self {
            format: Format::Raw,
            virtual_size_bytes: size,
            file_size_bytes: size,
            backing: None,
            data_file: false,
            encrypted: false,
            corrupt: false,
            dirty: false,
        }
    }
}
