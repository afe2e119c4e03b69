//! A volume that overlays are backed by.

use std::fs::File;
use std::path::{Path, PathBuf};

use common::libvirt::Libvirt;
use common::{Error, ErrorKind, Result};

use crate::image::record::Record;
use crate::image::{self, Format, SaidFormat, StatedFormat};
use crate::pool::Pool;
use crate::references::disk_writers;
use crate::volume::{Volume, header};

/// An image that overlays are backed by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Base {
    /// Volume name.
    pub name: String,
    /// Where it is, on libvirt's host.
    pub path: PathBuf,
    /// Its format; always written into the overlay, since guessing it is a known way to be attacked.
    pub format: Format,
    /// Size the guest sees, bytes.
    pub capacity_bytes: u64,
}

impl Base {
    /// The base image of this name in a pool.
    ///
    /// libvirt's own word for the format counts for nothing: libvirt reads it from the header, which a
    /// guest whose disk the volume was may have written.
    ///
    /// Errors: `not_found`; `conflict` for a volume that a domain writes to; `invalid_input` for one whose
    /// format nothing states, whose header says something else, or that needs another file.
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

    /// Fails unless the volume is there and has the format and size that were planned with. Called while a lock
    /// keeps the volume: until then other commands may delete or replace it.
    ///
    /// Errors: `not_found`; `conflict` for another image.
    pub(crate) fn check_unchanged(&self, libvirt: &Libvirt, pool: &Pool) -> Result<()> {
        let volume = find_volume(pool, &self.name)?;
        let file = header::open(libvirt, &volume)?;
        let changed = || {
            Error::conflict(format!("image '{}' changed meanwhile", self.name))
                .hint("run the same command again")
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
        Error::not_found(format!("no volume '{name}' in pool '{}'", pool.name))
            .hint(format!("tdx-pool volumes --pool '{}' lists its volumes", pool.name))
    };
    let handle = pool.volume(name)?.ok_or_else(absent)?;
    Volume::read(handle)?.ok_or_else(absent)
}

/// The format of an image that lies in a pool: as the flag says, else our record, as long as the image
/// was not written since, else the piped item, else the file's name, else the domain that has it.
///
/// Errors: `invalid_input` where none of them says anything; that of reading the header where a record
/// of version 0.1.0 leaves the format to it.
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
