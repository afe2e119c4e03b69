//! The formats that a definition states for its images.

use std::path::Path;

use tdx_pool::image::Format;

use crate::domain::definition::disks::chain;
use crate::domain::definition::parsed::Definition;

impl Definition {
    /// Returns the format of the disk with this file.
    pub fn disk_format(&self, file: &Path) -> Option<Format> {
        let mut disks = self.root().find_all("devices/disk");
        let disk = disks.find(|disk| {
            let source = disk.attr_at("source", "file");
            source.is_some_and(|source| Path::new(source.as_ref()) == file)
        })?;
        Format::parse(&disk.attr_at("driver", "type")?)
    }

    /// Returns the format of the image that backs the overlay.
    pub fn base_format(&self) -> Option<Format> {
        let (overlay, _) = self.overlay()?;
        let mut disks = self.root().find_all("devices/disk");
        let disk = disks.find(|disk| chain(*disk).contains(&overlay))?;
        let mut image = disk;
        while let Some(below) =
            image.child("backingStore").filter(|below| below.child("source").is_some())
        {
            image = below;
        }
        Format::parse(&image.attr_at("format", "type")?)
    }
}
