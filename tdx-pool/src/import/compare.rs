//! Compares an image to import with the volume that already has its name.
//!
//! The open files are compared, because another file could have the name by the time the name is opened again.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use common::cli::{interrupt, log};
use common::libvirt::Libvirt;
use common::system::sysroot::Host;
use common::{Error, ErrorKind, IoContext, Result};
use rustix::fs::OFlags;

use super::write::qemu_img;
use crate::image::record::{Identity, Record};
use crate::image::{self, Image, SaidFormat, StatedFormat};
use crate::import::request::ImportRequest;
use crate::import::temporary_file::TemporaryFile;
use crate::import::volume_comparison::Comparison;
use crate::import::{copy, volume_comparison};
use crate::pool::Pool;
use crate::volume::base_image::stated_format;
use crate::volume::header;

/// What the pool has under the name of the image.
pub(crate) enum Existing {
    Nothing,
    Same(Box<ExistingVolume>),
    Different,
}

/// A volume with the same content as the image.
#[derive(Debug)]
pub(crate) struct ExistingVolume {
    /// The description from its header.
    pub(crate) image: Image,
    /// The digest of the source's bytes, if it is known.
    pub(crate) sha256: Option<String>,
    /// The record of the volume, which is about another file or another state of this file.
    pub(crate) stale: Option<(File, Record)>,
}

impl ImportRequest {
    /// Compares the source with the file in the pool's directory.
    ///
    /// Errors: `conflict` for a volume that is not a file, and for a source that changes during the comparison;
    /// `invalid_input` for a source in the pool without a stated format.
    pub(crate) fn compare_file(&self, host: &Host) -> Result<Existing> {
        let Some(file) = open_existing(&self.target())? else { return Ok(Existing::Nothing) };
        let target = self.target();
        let theirs = Identity::from(&file.metadata().at("examine", &target)?);
        let record = Record::read(&file);
        if self.source.identity.is_same_file(&theirs) {
            let image = self.check_in_place(Some(&file))?;
            return self.same(file, image, None, None);
        }
        let sha256 = record.as_ref().and_then(|record| record.sha256.clone());
        if record.as_ref().is_some_and(|record| record.source == self.source.identity) {
            log::detail(format_args!("'{}' was imported from the same file", self.name));
            let image = self.check_equal(&file, record.as_ref())?;
            return self.same(file, image, sha256, None);
        }
        let sha256 = match (&record, sha256) {
            (Some(Record { compressed: true, .. }), Some(recorded)) => {
                let is_same = self.source.sha256()? == recorded;
                is_same.then_some(Some(recorded))
            }
            (_, recorded) => {
                if copy::same_content(&self.source.file, &file, &interrupt::check)? {
                    Some(recorded)
                } else if self.options.compress {
                    self.same_disk(host, &file)?.map(Some)
                } else {
                    None
                }
            }
        };
        let Some(sha256) = sha256 else { return Ok(Existing::Different) };
        // The record will describe the state that was compared.
        self.source.check_unchanged()?;
        let image = self.check_equal(&file, record.as_ref())?;
        self.same(file, image, sha256, record)
    }

    fn same(
        &self,
        file: File,
        image: Image,
        sha256: Option<String>,
        stale: Option<Record>,
    ) -> Result<Existing> {
        let sha256 = match sha256 {
            None if self.options.sha256.is_some() => Some(copy::sha256_of(&file)?),
            known => known,
        };
        let stale = stale.map(|record| (file, record));
        Ok(Existing::Same(Box::new(ExistingVolume { image, sha256, stale })))
    }

    /// Reads the header of a source in the pool, which a guest may have written.
    fn check_in_place(&self, file: Option<&File>) -> Result<Image> {
        let said = SaidFormat { flag: self.options.format, ..SaidFormat::default() };
        let target = self.target();
        let stated = stated_format(file, &target, said)?;
        image::check_stated(file.unwrap_or(&self.source.file), &target, stated)
    }

    /// Reads the header of a volume that has the same bytes as the source.
    fn check_equal(&self, file: &File, record: Option<&Record>) -> Result<Image> {
        let target = self.target();
        let format = match record.and_then(|record| record.format) {
            Some(format) => format,
            None => image::probe(file, &target)?.format,
        };
        image::check_stated(file, &target, StatedFormat::by_record(format))
    }

    /// Compares the source with a volume whose file only libvirtd can read.
    pub(crate) fn compare_volume(
        &self,
        libvirt: &Libvirt,
        pool: Option<&Pool>,
    ) -> Result<Existing> {
        let Some(pool) = pool.filter(|pool| pool.is_active()) else {
            return Ok(Existing::Nothing);
        };
        pool.refresh()?;
        let Some(volume) = pool.volume(&self.name)? else {
            return Ok(Existing::Nothing);
        };
        let sha256 = match volume_comparison::compare(libvirt, &volume, &self.source)? {
            Comparison::Same { sha256 } => Some(sha256),
            Comparison::Headless { .. } | Comparison::Begun => return Ok(Existing::Nothing),
            Comparison::Different => return Ok(Existing::Different),
        };
        let target = self.target();
        let is_in_place = libvirt.is_local()
            && target.metadata().is_ok_and(|metadata| {
                self.source.identity.is_same_file(&Identity::from(&metadata))
            });
        let image = if is_in_place {
            self.check_in_place(None)?
        } else {
            self.check_equal(&header::download(libvirt, &volume, &target)?, None)?
        };
        Ok(Existing::Same(Box::new(ExistingVolume { image, sha256, stale: None })))
    }

    /// Whether a guest would see the same disk in the image `file` as in the source, even if the bytes of the files
    /// differ. Returns the digest of the bytes of the source that were compared.
    ///
    /// qemu-img opens files by name and follows headers, so it gets a private copy of the source.
    fn same_disk(&self, host: &Host, file: &File) -> Result<Option<String>> {
        let target = self.target();
        let ours = &self.source.image;
        let theirs = match image::check_base(file, &target) {
            Err(error) if error.kind() == ErrorKind::InvalidInput => return Ok(None),
            theirs => theirs?,
        };
        if theirs.virtual_size_bytes != ours.virtual_size_bytes {
            return Ok(None);
        }
        let copy = TemporaryFile::create(host, &self.directory)?;
        let sha256 = self.copy_to(&copy.file, true, &|_| {})?;
        let formats = ["-f", ours.format.as_str(), "-F", theirs.format.as_str()];
        let compare = qemu_img(["compare", "-s", "-q"]).args(formats).args(["--"]);
        let sha256 = match compare.args([&copy.path, &target]).run() {
            Err(error) if error.kind() == ErrorKind::CommandFailed => None,
            done => done.map(|_| sha256)?,
        };
        copy.discard()?;
        Ok(sha256)
    }
}

/// Opens the file at `path`, without waiting for the other end of a named pipe.
///
/// Errors: `conflict` for anything other than a file.
fn open_existing(path: &Path) -> Result<Option<File>> {
    // A link to an absent file also occupies the name.
    match path.symlink_metadata() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        known => known.at("examine", path)?,
    };
    let flags = (OFlags::NONBLOCK | OFlags::NOCTTY).bits().cast_signed();
    let opened = OpenOptions::new().read(true).custom_flags(flags).open(path);
    match opened.ok().filter(|file| file.metadata().is_ok_and(|metadata| metadata.is_file())) {
        Some(file) => Ok(Some(file)),
        None => {
            let what = format!("{} exists and is not a regular file", path.display());
            Err(Error::conflict(what).hint("choose another name with --name"))
        }
    }
}
