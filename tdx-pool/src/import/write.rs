//! Writes an image under a temporary name, and renames it when it is complete.
//!
//! The bytes are first copied from the open source into a private file. All later checks and conversions read that
//! copy. A user who can write to the source, or give its name to another file, therefore cannot change what was
//! checked.

use std::fs::{File, Permissions};
use std::os::unix::fs::{PermissionsExt, fchown};

use common::cli::{Context, interrupt, log};
use common::libvirt::Libvirt;
use common::system::exec::Runner;
use common::{Error, ErrorKind, IoContext, Result};

use crate::image::record::{Record, Stamp};
use crate::image::{self, Format};
use crate::import::copy;
use crate::import::copy::Watch;
use crate::import::request::ImportRequest;
use crate::import::temporary_file::TemporaryFile;
use crate::pool::Pool;
use crate::pool::qemu_user::QemuUser;
use crate::references::inflight::RemovalLock;

impl ImportRequest {
    /// Copies the image into the pool's directory. Returns the SHA-256 if it was computed.
    pub(crate) fn write_file(
        &self,
        context: &Context,
        libvirt: &Libvirt,
        pool: &Pool,
        qemu_user: Option<QemuUser>,
        replaces: bool,
        progress: &dyn Fn(u64),
    ) -> Result<Option<String>> {
        let copy = TemporaryFile::create(&context.host, &self.directory)?;
        log::step(format_args!("copy {} to {}", self.source.path.display(), copy.path.display()));
        let digest = self.options.compress || self.options.sha256.is_some();
        let sha256 = self.copy_to(&copy.file, digest, progress)?;
        if let Some(sha256) = &sha256 {
            self.check_sha256(sha256)?;
        }
        let part = if self.options.compress { self.compress(context, copy)? } else { copy };
        copy::sync(&part.file).map_err(|error| self.cannot_copy(error))?;
        if rustix::process::geteuid().is_root() {
            fchown(&part.file, Some(0), Some(qemu_user.map_or(0, |owner| owner.gid)))
                .at("change the owner of", &part.path)?;
        }
        let mode = Permissions::from_mode(0o640);
        part.file.set_permissions(mode).at("change the mode of", &part.path)?;
        self.record(&part.file, sha256.clone())?;
        // From here on, nothing can begin to use the volume, and existing users are found.
        let removal = replaces.then(|| RemovalLock::begin(&context.host, &self.name));
        let _removal = removal.transpose()?;
        if replaces {
            self.check_replace(libvirt, Some(pool))?;
        }
        interrupt::check()?;
        part.rename(&self.target(), replaces)?;
        Ok(sha256)
    }

    /// Copies the source into a private file, and checks that the copy is the image that was planned with. Returns the
    /// digest of the copy if `digest` is set.
    ///
    /// Errors: those of [`copy::copy`] and [`image::check_base`]; `conflict` when the source changed after it was
    /// opened.
    pub(crate) fn copy_to(
        &self,
        file: &File,
        digest: bool,
        progress: &dyn Fn(u64),
    ) -> Result<Option<String>> {
        let mut progress = |done, _| progress(done);
        let mut watch = Watch { progress: &mut progress, interrupt: &interrupt::check };
        let copied = copy::copy(&self.source.file, file, digest, &mut watch);
        let copied = copied.map_err(|error| self.cannot_copy(error))?;
        self.source.check_unchanged()?;
        // Writes through a memory mapping of the source are not detected, so the copy is checked.
        if image::check_base(file, &self.source.path)? == self.source.image {
            Ok(copied.sha256)
        } else {
            Err(self.source.changed())
        }
    }

    /// Recompresses a private copy into a second one.
    fn compress(&self, context: &Context, copy: TemporaryFile) -> Result<TemporaryFile> {
        let packed = TemporaryFile::create(&context.host, &self.directory)?;
        log::step(format_args!("compress the copy to {}", packed.path.display()));
        let from = self.source.image.format.as_str();
        qemu_img(["convert", "-c", "-f", from, "-O", Format::Qcow2.as_str(), "--"])
            .args([&copy.path, &packed.path])
            .run()
            .map_err(|error| self.cannot_copy(error))?;
        copy.discard()?;
        Ok(packed)
    }

    fn cannot_copy(&self, cause: Error) -> Error {
        let kind = cause.kind();
        match kind {
            ErrorKind::Interrupted | ErrorKind::Unsupported => return cause,
            ErrorKind::Conflict => return self.source.changed(),
            _ => {}
        }
        let (from, to) = (self.source.path.display(), self.directory.display());
        Error::new(kind, format!("cannot copy {from} to {to}")).because(cause)
    }

    /// Writes the record of the import, so that the next import need not read the image.
    fn record(&self, file: &File, sha256: Option<String>) -> Result<()> {
        let metadata = file.metadata().at("examine", self.target())?;
        let record = Record {
            source: self.source.identity.clone(),
            volume: Stamp::from(&metadata),
            sha256,
            compressed: self.options.compress,
            format: Some(self.format()),
        };
        if !record.write(file) {
            log::step(
                "the file system has no extended attributes: the next import will compare contents",
            );
        }
        Ok(())
    }
}

pub(crate) fn qemu_img<const N: usize>(arguments: [&str; N]) -> Runner {
    Runner::new("qemu-img", "qemu-utils").args(arguments)
}
