//! A base image: a volume that backs overlays.

use std::fs::File;
use std::path::{Path, PathBuf};

use common::libvirt::Libvirt;
use common::{Error, ErrorKind, Result, shell};

use crate::image::record::Record;
use crate::image::{self, Format, SaidFormat, StatedFormat};
use crate::pool::Pool;
use crate::references::disk_writers;
use crate::volume::{Volume, header};

/// A base image: an image that backs overlays.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Base {
    /// The name of the volume.
    pub name: String,
    /// The path of the image on libvirt's host.
    pub path: PathBuf,
    /// The format of the image. It is always written into the overlay, because a guessed format allows a known attack.
    pub format: Format,
    /// The size of the disk that the guest sees, in bytes.
    pub capacity_bytes: u64,
}

impl Base {
    /// The base image with this name in a pool.
    ///
    /// The format that libvirt reports is ignored, because libvirt reads it from the header, which a guest may have
    /// written.
    ///
    /// Errors: `not_found`; `conflict` for a volume that a domain writes to; `invalid_input` for a volume without a
    /// stated format, with a header that contradicts the stated format, or that needs another file.
    pub fn find(libvirt: &Libvirt, pool: &Pool, name: &str, said: SaidFormat) -> Result<Self> {
        let volume = find_volume(pool, name)?;
        disk_writers::check(libvirt, &pool.name, name, &volume.path)?;
        let file = header::open(libvirt, &volume)?;
        let stated = stated_format(Some(&file), &volume.path, said)?;
        let image = image::check_stated(&file, &volume.path, stated)?;
        Ok(Self {
            name: volume.name,
            path: volume.path,
            format: image.format,
            capacity_bytes: image.virtual_size_bytes,
        })
    }

    /// Fails unless the volume still has the format and size that were planned with. Called under a lock on the volume,
    /// because other commands may have deleted or replaced the volume before.
    ///
    /// Errors: `not_found`; `conflict` for another image.
    pub(crate) fn check_unchanged(&self, libvirt: &Libvirt, pool: &Pool) -> Result<()> {
        let volume = find_volume(pool, &self.name)?;
        let file = header::open(libvirt, &volume)?;
        let changed = || {
            Error::conflict(format!("image '{}' changed during this command", self.name))
                .hint("run this command again")
        };
        let recorded = Record::read(&file).and_then(|record| record.format);
        let stated = StatedFormat::by_record(recorded.unwrap_or(self.format));
        match image::check_stated(&file, &volume.path, stated) {
            Ok(image)
                if image.format == self.format
                    && image.virtual_size_bytes == self.capacity_bytes
                    && volume.path == self.path =>
            {
                Ok(())
            }
            Err(error) if error.kind() != ErrorKind::InvalidInput => Err(error),
            Ok(_) => Err(changed()),
            Err(error) => Err(changed().because(error)),
        }
    }
}

/// Errors: `not_found`.
fn find_volume(pool: &Pool, name: &str) -> Result<Volume> {
    let absent = || {
        Error::not_found(format!("volume '{name}' not found in pool '{}'", pool.name))
            .hint(format!("tdx-pool volumes --pool {}", shell::quote(&pool.name)))
    };
    let handle = pool.volume(name)?.ok_or_else(absent)?;
    Volume::read(handle)?.ok_or_else(absent)
}

/// The stated format of an image in a pool: from `--image-format`, else from the record of its import if the image was
/// not written after it, else from the piped item, else from the file name, else from the domain that has the image.
///
/// Errors: `invalid_input` when none of these states a format; those of reading the header for a record of version
/// 0.1.0, which has no format.
pub(crate) fn stated_format(
    file: Option<&File>,
    path: &Path,
    said: SaidFormat,
) -> Result<StatedFormat> {
    if let Some(format) = said.flag {
        return Ok(StatedFormat::by_flag(format));
    }
    if let Some((file, record)) = file.and_then(|file| Some((file, Record::read(file)?))) {
        let format = match record.format {
            Some(format) => format,
            None => image::probe(file, path)?.format,
        };
        return Ok(StatedFormat::by_record(format));
    }
    said.item
        .map(StatedFormat::by_item)
        .or_else(|| StatedFormat::by_name(path))
        .or_else(|| said.definition.map(StatedFormat::by_definition))
        .ok_or_else(|| StatedFormat::missing(path))
}
