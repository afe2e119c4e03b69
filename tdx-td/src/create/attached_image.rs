//! Images that a guest gets as they are: the user's own disk, and a CD.

use std::fs::File;
use std::path::{Path, PathBuf};

use common::libvirt::Libvirt;
use common::{Error, IoContext, Result};
use tdx_pool::image::{self, Format, StatedFormat};
use tdx_pool::references::needs;

use crate::create::disk::Disk;
use crate::domain::definition::Definition;

/// The user's own image, and who states its format.
#[derive(Debug, Clone)]
pub struct UserImage {
    path: PathBuf,
    format: Format,
    /// None of a domain that is there: it has the format of its definition.
    stated: Option<StatedFormat>,
}

impl UserImage {
    /// The image that `--vmimage` names. For a domain that is there the header counts for nothing: its
    /// guest may have written it.
    ///
    /// Errors: `not_found`, `permission`; `invalid_input` for an image whose format nothing states, whose
    /// header says something else, or that needs another file; `conflict` for one that a domain has, or
    /// an overlay is backed by; `unsupported` for a device, and on a remote connection.
    pub fn find(
        libvirt: &Libvirt,
        path: &Path,
        flag: Option<Format>,
        existing: Option<&Definition>,
    ) -> Result<Self> {
        if !libvirt.is_local() {
            return Err(Error::unsupported(
                "--vmimage is an image of this machine, not the remote host's",
            )
            .hint("import it into a pool there: tdx-pool import"));
        }
        let path = path.canonicalize().at("find", path)?;
        let by_name = StatedFormat::by_name(&path);
        let stated = flag.map(StatedFormat::by_flag).or(by_name);
        if let Some(existing) = existing {
            let of_definition = existing.disk_format(&path);
            let format = of_definition.or(stated.map(|stated| stated.format));
            return Ok(Self { path, format: format.unwrap_or(Format::Raw), stated: None });
        }
        let file = open(&path)?;
        let stated = stated.ok_or_else(|| StatedFormat::missing(&path))?;
        let image = Self { path, format: stated.format, stated: Some(stated) };
        image.check_header(&file)?;
        image.check_users(libvirt)?;
        Ok(image)
    }

    /// Checks again what may have changed since, right before a guest gets the image.
    ///
    /// Errors: those of [`UserImage::find`].
    pub fn check_again(&self, libvirt: &Libvirt) -> Result<()> {
        self.check_header(&open(&self.path)?)?;
        self.check_users(libvirt)
    }

    /// The image as a domain's disk.
    pub fn disk(&self) -> Disk {
        Disk::Given { path: self.path.clone(), format: self.format }
    }

    fn check_header(&self, file: &File) -> Result<()> {
        match self.stated {
            Some(stated) => image::check_stated(file, &self.path, stated).map(drop),
            None => Ok(()),
        }
    }

    fn check_users(&self, libvirt: &Libvirt) -> Result<()> {
        let users = needs::users(libvirt, &self.path)?;
        if users.is_empty() {
            return Ok(());
        }
        let shown = self.path.display();
        Err(Error::conflict(format!("{shown} is needed by {}", users.join(", ")))
            .hint("--td-image makes an overlay over it, which changes nothing of it"))
    }
}

/// Opens an image file.
///
/// Errors: `unsupported` for a device; `invalid_input` for what can hold no image.
fn open(path: &Path) -> Result<File> {
    let file = image::open(path)?;
    let metadata = file.metadata().at("look at", path)?;
    if std::os::unix::fs::FileTypeExt::is_block_device(&metadata.file_type()) {
        let message = format!("{} is a device, not an image", path.display());
        return Err(Error::unsupported(message).hint("tdx-disk attach gives a guest a whole disk"));
    }
    image::check_kind(&file, path)?;
    Ok(file)
}

/// A CD's image, as libvirt is to have it. It is attached raw whatever is in it, so that no header
/// is read, here or by QEMU.
///
/// Errors: `not_found`, `permission`; `invalid_input` for what is no file; `usage` for a relative path on a
/// remote connection.
pub fn cdrom(libvirt: &Libvirt, path: &Path) -> Result<PathBuf> {
    if libvirt.is_local() {
        let path = path.canonicalize().at("find", path)?;
        image::check_kind(&image::open(&path)?, &path)?;
        return Ok(path);
    }
    match path.is_absolute() {
        true => Ok(path.to_owned()),
        false => Err(Error::usage(format!("--cdrom {} is of the remote host", path.display()))
            .hint("write it from / on")),
    }
}
