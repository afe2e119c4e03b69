//! The flags that choose the disk image and the pool.

use std::path::PathBuf;

use clap::Args;
use common::document::input;
use common::units::{self, Size};
use common::{Error, Result, name};
use serde::Deserialize;
use tdx_pool::image::{Format, SaidFormat};
use tdx_pool::volume::claim::VolumeClaim;

use crate::create::base_image::ImageRequest;

/// The flags that choose the disk image and the pool.
#[derive(Debug, Args)]
#[command(next_help_heading = "Image and disk")]
pub struct ImageArgs {
    /// Disk image: a volume of the pool, or a file, which is imported into the pool first
    #[arg(short = 'i', long, value_name = "IMAGE", conflicts_with = "base")]
    pub td_image: Option<PathBuf>,
    /// Base image: a volume of the pool; - reads the output of tdx-pool import or tdx-pool volumes from
    /// standard input
    #[arg(long, value_name = "VOLUME")]
    pub base: Option<String>,
    /// Format of the image [default: the format recorded at the import of the image; otherwise, with
    /// --base -, the format on standard input; otherwise the extension of the file name]
    #[arg(long, value_name = "FORMAT", value_enum)]
    pub image_format: Option<Format>,
    /// Storage pool [default: tdvirsh-pool; if no such pool exists, a pool with the directory
    /// /var/lib/libvirt/images]
    #[arg(long, value_name = "NAME")]
    pub pool: Option<String>,
    /// Size of the guest's disk [default: the size of the image]
    #[arg(long, value_name = "SIZE", value_parser = units::size_in(units::DISK))]
    pub disk_size: Option<Size>,
}

/// An item of a document for `--base -`.
#[derive(Deserialize)]
struct BaseItem {
    #[serde(deserialize_with = "name::deserialize")]
    name: String,
    #[serde(deserialize_with = "name::deserialize")]
    pool: String,
    #[serde(flatten)]
    claim: VolumeClaim,
    format: Option<String>,
    /// The imported file. Only an item of `tdx-pool import`, which checked the image, has it.
    source: Option<String>,
}

impl BaseItem {
    /// The format, if the item is of `tdx-pool import`. The `format` in an item of `tdx-pool volumes` is
    /// libvirt's guess.
    fn imported_format(&self) -> Option<Format> {
        self.source.as_ref()?;
        Format::parse(self.format.as_deref()?)
    }
}

impl ImageArgs {
    /// Returns the image that the flags name, and reads standard input for `-`.
    ///
    /// Errors: `invalid_input` unless standard input is a document with exactly one image.
    pub fn read(&self) -> Result<ImageRequest> {
        let mut request = ImageRequest {
            pool: self.pool.clone(),
            image: self.td_image.clone(),
            base: self.base.clone(),
            claim: VolumeClaim::default(),
            format: SaidFormat { flag: self.image_format, ..SaidFormat::default() },
            disk_size: self.disk_size.map(|size| size.0),
        };
        if self.base.as_deref() == Some(input::STDIN) {
            let kinds = ["tdx.pool.import", "tdx.pool.volumes"];
            let items: Vec<BaseItem> = input::items(&kinds, "the output of tdx-pool import")?;
            let count = items.len();
            let [item] = <[BaseItem; 1]>::try_from(items).map_err(|_| {
                Error::invalid_input(format!(
                    "expected one base image on standard input, got {count}"
                ))
            })?;
            request.format.item = item.imported_format();
            let pool = item.pool;
            if self.pool.as_ref().is_some_and(|asked| *asked != pool) {
                let message =
                    format!("the base image is in pool '{pool}', but --pool names another pool");
                return Err(Error::conflict(message));
            }
            request.base = Some(item.name);
            request.pool = Some(pool);
            request.claim = item.claim;
        }
        Ok(request)
    }
}
