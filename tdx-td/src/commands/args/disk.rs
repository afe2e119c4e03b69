//! A guest's disk, when it is no overlay.

use std::path::PathBuf;

use clap::Args;
use common::units::{self, Size};

use crate::create::disk_plan::DiskRequest;

/// Which disk, when it is no overlay.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Disk")]
pub struct DiskArgs {
    /// An empty disk of this size, as the scenario's storage settings say
    #[arg(long, value_name = "SIZE", value_parser = units::size_in(units::DISK))]
    #[arg(conflicts_with_all = ["td_image", "base", "disk_size", "image_format", "vmimage"])]
    #[arg(conflicts_with = "xml_template")]
    pub blank: Option<Size>,
    /// An image to be used as it is, instead of an overlay over it
    #[arg(long, value_name = "FILE")]
    #[arg(conflicts_with_all = ["td_image", "base", "disk_size", "xml_template"])]
    pub vmimage: Option<PathBuf>,
    /// A CD to boot from; without an image for the disk, that is an empty one
    #[arg(long, value_name = "ISO", conflicts_with = "xml_template")]
    pub cdrom: Option<PathBuf>,
    /// The passphrase of a disk that is to be encrypted; asked for on a terminal without it
    #[arg(long, value_name = "FILE")]
    pub passphrase_file: Option<PathBuf>,
}

impl From<DiskArgs> for DiskRequest {
    fn from(args: DiskArgs) -> Self {
        let DiskArgs { blank, vmimage, cdrom, passphrase_file } = args;
        Self { blank, vmimage, cdrom, passphrase_file }
    }
}
