//! Which base image, into which pool.

use std::path::PathBuf;

use clap::Args;
use common::document::input;
use common::units::{self, Size};
use common::{Error, Result, name};
use serde::Deserialize;
use tdx_pool::image::{Format, SaidFormat};
use tdx_pool::volume::claim::VolumeClaim;

use crate::create::base_image::ImageRequest;

/// Which image, into which pool.
#[derive(Debug, Args)]
pub struct ImageArgs {
    /// The disk image: a volume of the pool, or a file, which is imported
    #[arg(short = 'i', long, value_name = "IMAGE", conflicts_with = "base")]
    pub td_image: Option<PathBuf>,
    /// A volume of the pool, or - for what tdx-pool import or volumes printed
    #[arg(long, value_name = "VOLUME")]
    pub base: Option<String>,
    /// The image's format; without it a base image has that of its import's record, of the item on
    /// standard input or of its name, and an image that is used as it is that of its name
    #[arg(long, value_name = "FORMAT", value_enum)]
    pub image_format: Option<Format>,
    /// The pool's name [default: tdvirsh-pool, or the pool that owns its folder]
    #[arg(long, value_name = "NAME")]
    pub pool: Option<String>,
    /// Size of the guest's disk [default: that of the image]
    #[arg(long, value_name = "SIZE", value_parser = units::size_in(units::DISK))]
    pub disk_size: Option<Size>,
}

/// What a document for `--base -` must tell, and may tell.
#[derive(Deserialize)]
struct BaseItem {
    #[serde(deserialize_with = "name::deserialize")]
    name: String,
    #[serde(deserialize_with = "name::deserialize")]
    pool: String,
    #[serde(flatten)]
    claim: VolumeClaim,
    format: Option<String>,
    /// What was imported: only `tdx-pool import` tells, which has checked the image.
    source: Option<String>,
}

impl BaseItem {
    /// The format of an image that was imported. The `format` of a volume is libvirt's guess.
    fn imported_format(&self) -> Option<Format> {
        self.source.as_ref()?;
        Format::parse(self.format.as_deref()?)
    }
}

impl ImageArgs {
    /// Returns the image that the flags ask for, reading standard input where they say so.
    ///
    /// Errors: `invalid_input` for no such document, or not exactly one image in it.
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
            let items: Vec<BaseItem> = input::items(&kinds, "what tdx-pool import printed")?;
            let count = items.len();
            let [item] = <[BaseItem; 1]>::try_from(items).map_err(|_| {
                Error::invalid_input(format!("one base image was expected, {count} came"))
            })?;
            request.format.item = item.imported_format();
            let pool = item.pool;
            if self.pool.as_ref().is_some_and(|asked| *asked != pool) {
                return Err(Error::conflict(format!("the image is in pool '{pool}'")));
            }
            request.base = Some(item.name);
            request.pool = Some(pool);
            request.claim = item.claim;
        }
        Ok(request)
    }
}
