//! What a domain's own disk is, once it is settled.

use std::path::{Path, PathBuf};

use tdx_pool::image::Format;
use tdx_pool::volume::overlay::Base;

/// What a domain's disk is.
#[derive(Debug, Clone)]
pub enum Disk {
    /// A copy-on-write image over a base that stays as it is.
    Overlay {
        /// Where it is.
        path: PathBuf,
        /// What it stands on.
        base: Base,
    },
    /// An image of its own, empty at first.
    New {
        /// Where it is.
        path: PathBuf,
        /// Its format.
        format: Format,
        /// UUID of libvirt's secret with its passphrase, when it is encrypted.
        secret: Option<String>,
    },
    /// A user's image, used as it is and never deleted.
    Given {
        /// Where it is.
        path: PathBuf,
        /// Its format.
        format: Format,
    },
}

impl Disk {
    /// Where it is, on libvirt's host.
    pub fn path(&self) -> &Path {
        match self {
            Self::Overlay { path, .. } | Self::New { path, .. } | Self::Given { path, .. } => path,
        }
    }

    /// Its format.
    pub fn format(&self) -> Format {
        match self {
            Self::Overlay { .. } => Format::Qcow2,
            Self::New { format, .. } | Self::Given { format, .. } => *format,
        }
    }
}
