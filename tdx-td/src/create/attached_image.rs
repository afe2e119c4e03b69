//! Images that a guest uses directly: the disk image of `--vmimage`, and a CD image.

use std::fs::File;
use std::path::{Path, PathBuf};

use common::libvirt::Libvirt;
use common::{Error, IoContext, Result};
use tdx_pool::image;
use tdx_pool::image::{Format, StatedFormat};
use tdx_pool::references::dependents;

use crate::create::disk::Disk;
use crate::domain::definition::Definition;

/// The disk image of `--vmimage`, and where its format is stated.
#[derive(Debug, Clone)]
pub struct UserImage {
    path: PathBuf,
    format: Format,
    /// `None` for the image of an existing domain, whose definition states the format.
    stated: Option<StatedFormat>,
}

impl UserImage {
    /// Finds the image that `--vmimage` names. The header of an existing domain's image is not read: its guest
    /// may have written it.
    ///
    /// Errors: `not_found`, `permission`; `invalid_input` for an image whose format is not stated, whose
    /// header contradicts the stated format, or that needs another file; `conflict` for an image that a domain
    /// uses or that backs an overlay; `unsupported` for a device, and on a remote connection.
    pub fn find(
        libvirt: &Libvirt,
        path: &Path,
        flag: Option<Format>,
        existing: Option<&Definition>,
    ) -> Result<Self> {
        if !libvirt.is_local() {
            return Err(Error::unsupported(
                "--vmimage names a file of this machine, which a remote host cannot use",
            )
            .hint(
                "import the image into a pool of that host: tdx-pool --connect URI import FILE",
            ));
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

    /// Checks the image again, right before a guest gets it.
    ///
    /// Errors: those of [`UserImage::find`].
    pub fn check_again(&self, libvirt: &Libvirt) -> Result<()> {
        self.check_header(&open(&self.path)?)?;
        self.check_users(libvirt)
    }

    /// Returns the image as the disk of a domain.
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
        let users = dependents::users(libvirt, &self.path)?;
        if users.is_empty() {
            return Ok(());
        }
        let shown = self.path.display();
        Err(Error::conflict(format!("{shown} is needed by {}", users.join(", "))).hint(
            "use --td-image instead of --vmimage: the guest then writes to an overlay, not to the \
             image",
        ))
    }
}

/// Opens an image file.
///
/// Errors: `unsupported` for a device; `invalid_input` for another kind of file that cannot be an image.
fn open(path: &Path) -> Result<File> {
    let file = image::open(path)?;
    let metadata = file.metadata().at("examine", path)?;
    if std::os::unix::fs::FileTypeExt::is_block_device(&metadata.file_type()) {
        let message = format!("{} is a device, not an image", path.display());
        return Err(Error::unsupported(message).hint(format!(
            "create the guest first, then: tdx-disk attach NAME {}",
            path.display()
        )));
    }
    image::check_kind(&file, path)?;
    Ok(file)
}

/// Returns the path of a CD image for libvirt. The image is attached as raw, so that neither these tools nor
/// QEMU read a header in it.
///
/// Errors: `not_found`, `permission`; `invalid_input` unless it is a file; `usage` for a relative path on a
/// remote connection.
pub fn cdrom(libvirt: &Libvirt, path: &Path) -> Result<PathBuf> {
    if libvirt.is_local() {
        let path = path.canonicalize().at("find", path)?;
        image::check_kind(&image::open(&path)?, &path)?;
        return Ok(path);
    }
    match path.is_absolute() {
        true => Ok(path.to_owned()),
        false => Err(Error::usage(format!(
            "--cdrom {} is a relative path, but names a file of a remote host",
            path.display()
        ))
        .hint("give the absolute path of the file on that host")),
    }
}
