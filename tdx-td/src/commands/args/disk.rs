//! The flags for a guest's disk that is not an overlay.

use std::path::PathBuf;

use clap::Args;
use common::units::{self, Size};

use crate::create::disk_plan::DiskRequest;

/// The flags for a guest's disk that is not an overlay.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Image and disk")]
pub struct DiskArgs {
    /// Create an empty disk of this size instead of an overlay, with the scenario's storage settings
    #[arg(long, value_name = "SIZE", value_parser = units::size_in(units::DISK))]
    #[arg(conflicts_with_all = ["td_image", "base", "disk_size", "image_format", "vmimage"])]
    #[arg(conflicts_with = "xml_template")]
    pub blank: Option<Size>,
    /// Use this image itself as the guest's disk, without an overlay; the guest writes to it
    #[arg(long, value_name = "FILE")]
    #[arg(conflicts_with_all = ["td_image", "base", "disk_size", "xml_template"])]
    pub vmimage: Option<PathBuf>,
    /// CD image to boot from. Without a disk image, the guest gets an empty disk
    #[arg(long, value_name = "ISO", conflicts_with = "xml_template")]
    pub cdrom: Option<PathBuf>,
    /// File with the passphrase for an encrypted disk [default: ask on the terminal]
    #[arg(long, value_name = "FILE")]
    pub passphrase_file: Option<PathBuf>,
}

impl From<DiskArgs> for DiskRequest {
    fn from(args: DiskArgs) -> Self {
        let DiskArgs { blank, vmimage, cdrom, passphrase_file } = args;
        Self { blank, vmimage, cdrom, passphrase_file }
    }
}
