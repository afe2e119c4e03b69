//! The disk of a new domain.

use std::path::{Path, PathBuf};

use tdx_pool::image::Format;
use tdx_pool::volume::overlay::Base;

/// The disk of a new domain.
#[derive(Debug, Clone)]
pub enum Disk {
    /// A copy-on-write image backed by a base image, which is not changed.
    Overlay {
        /// Path of the overlay.
        path: PathBuf,
        /// The base image.
        base: Base,
    },
    /// A new, empty image.
    New {
        /// Path of the image.
        path: PathBuf,
        /// Format of the image.
        format: Format,
        /// UUID of libvirt's secret with the passphrase of an encrypted image.
        secret: Option<String>,
    },
    /// The image of `--vmimage`, which is used directly and never deleted.
    Given {
        /// Path of the image.
        path: PathBuf,
        /// Format of the image.
        format: Format,
    },
}

impl Disk {
    /// Returns the path of the disk on libvirt's host.
    pub fn path(&self) -> &Path {
        match self {
            Self::Overlay { path, .. } | Self::New { path, .. } | Self::Given { path, .. } => path,
        }
    }

    /// Returns the format of the disk.
    pub fn format(&self) -> Format {
        match self {
            Self::Overlay { .. } => Format::Qcow2,
            Self::New { format, .. } | Self::Given { format, .. } => *format,
        }
    }
}
