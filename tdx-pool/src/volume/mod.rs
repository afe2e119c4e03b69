//! A volume of a storage pool, as libvirt describes it.

pub mod base_image;
pub mod checked_file;
pub mod claim;
pub(crate) mod deletion;
pub mod disk;
pub(crate) mod header;
pub(crate) mod identity;
pub mod names;
pub mod new_volume;
pub mod overlay;
pub mod secret;
pub mod seed;
pub mod survey;

use std::borrow::Cow;
use std::path::PathBuf;

use common::Result;
use common::cli::interrupt;
use common::libvirt::{Context, is_gone};
use common::xml::Document;
use virt::storage_vol::StorageVol;
use virt::sys;

use crate::pool::Pool;

/// A volume of a storage pool, as libvirt describes it.
#[derive(Debug)]
pub struct Volume {
    /// The object of the `virt` crate.
    pub handle: StorageVol,
    /// The name of the volume in the pool.
    pub name: String,
    /// The path of the volume.
    pub path: PathBuf,
    /// The backing image.
    pub backing: Option<PathBuf>,
    /// The format of the image.
    pub format: Option<String>,
    /// The size of the disk that the guest sees, in bytes.
    pub capacity_bytes: Option<u64>,
    pub(crate) allocation_bytes: Option<u64>,
}

impl Volume {
    /// Reads a volume; none when the volume was deleted in the meantime.
    ///
    /// For a volume that libvirt cannot describe, only name and path are known. libvirt fails when the header names a
    /// backing file with a path that the kernel refuses.
    pub fn read(handle: StorageVol) -> Result<Option<Self>> {
        let name = handle.name().context("read the name of a volume")?;
        let text = match handle.xml_desc(0) {
            Err(error) if is_gone(&error) => return Ok(None),
            Err(error) if error.code().to_raw() == sys::VIR_ERR_SYSTEM_ERROR => {
                let path = handle.path().context(format_args!("read volume '{name}'"))?.into();
                let (backing, format, capacity_bytes, allocation_bytes) = (None, None, None, None);
                return Ok(Some(Self {
                    handle,
                    name,
                    path,
                    backing,
                    format,
                    capacity_bytes,
                    allocation_bytes,
                }));
            }
            text => text.context(format_args!("read volume '{name}'"))?,
        };
        let xml = Document::parse(text)?;
        let root = xml.root();
        let bytes = |path| root.text_at(path).and_then(|text| text.parse().ok());
        Ok(Some(Self {
            path: root.text_at("target/path").map(PathBuf::from).unwrap_or_default(),
            backing: root.text_at("backingStore/path").map(PathBuf::from),
            format: root.attr_at("target/format", "type").map(Cow::into_owned),
            capacity_bytes: bytes("capacity"),
            allocation_bytes: bytes("allocation"),
            name,
            handle,
        }))
    }

    /// Every volume of a pool, as of the last refresh of the pool.
    pub fn all(pool: &Pool) -> Result<Vec<Self>> {
        Self::all_while(pool, interrupt::check)
    }

    /// Every volume of a pool, as of the last refresh of the pool. An error of `go_on` ends the function.
    pub(crate) fn all_while(pool: &Pool, go_on: impl Fn() -> Result<()>) -> Result<Vec<Self>> {
        let doing = format_args!("list the volumes of pool '{}'", pool.name);
        let handles = pool.handle.list_all_volumes(0).context(doing)?;
        let mut volumes = Vec::with_capacity(handles.len());
        for handle in handles {
            go_on()?;
            volumes.extend(Self::read(handle)?);
        }
        Ok(volumes)
    }
}
