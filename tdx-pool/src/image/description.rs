//! What is known of an image from its header.

use crate::image::backing::Backing;
use crate::image::format::Format;

/// What the header of an image says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// How the file stores the disk.
    pub format: Format,
    /// The size of the disk as the guest sees it.
    pub virtual_size_bytes: u64,
    /// The length of the file, holes included.
    pub file_size_bytes: u64,
    /// The image that this one is an overlay of.
    pub backing: Option<Backing>,
    /// The guest's data lies in another file.
    pub data_file: bool,
    /// The guest's data is encrypted.
    pub encrypted: bool,
    /// QEMU found the image damaged and marked it so.
    pub corrupt: bool,
    /// The image was not closed cleanly; only its reference counts may be stale.
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
