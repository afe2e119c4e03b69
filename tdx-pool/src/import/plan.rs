//! The plan of an import, and its execution.

use std::path::Path;

use common::cli::Context;
use common::document::Action;
use common::libvirt::Libvirt;
use common::system::sysroot::Host;
use common::{Error, Result};
use rustix::fs::{Access, access};

use super::compare::{Existing, ExistingVolume};
use crate::image::Format;
use crate::image::record::Record;
use crate::import::item::ImportItem;
use crate::import::progress::progress_bar;
use crate::import::request::{ImportOptions, ImportRequest};
use crate::import::upload;
use crate::pool::plan::PoolPlan;
use crate::pool::qemu_user::QemuUser;
use crate::pool::{Pool, qemu_user};
use crate::references::disk_writers;
use crate::volume::base_image::Base;

/// The steps that bring an image into a pool.
#[derive(Debug)]
pub struct ImportPlan {
    request: ImportRequest,
    qemu_user: Option<QemuUser>,
    action: Action,
    /// Whether this process writes the volume itself instead of uploading it through libvirt.
    is_direct: bool,
    /// The digest of the source, if it is known.
    sha256: Option<String>,
    /// The volume that already has the content of the image.
    volume: Option<ExistingVolume>,
}

impl ImportPlan {
    /// Checks the image and the volume that already has its name, if any.
    ///
    /// Errors: those of [`Source::open`](crate::import::source::Source::open); `invalid_input` for an image whose
    /// header contradicts its stated format; `usage` for an invalid name; `conflict` when another image has the name
    /// or when a domain writes to the volume. For an image to replace, the error names the users of the old one.
    pub fn new(
        host: &Host,
        libvirt: &Libvirt,
        pool: &PoolPlan,
        image: &Path,
        options: ImportOptions,
    ) -> Result<Self> {
        let request = ImportRequest::new(pool.folder()?.to_owned(), image, options)?;
        let qemu_user = qemu_user::qemu_user(libvirt)?;
        let is_direct = libvirt.is_local() && can_write(&request.directory, qemu_user);
        if !is_direct && (request.options.compress || request.options.replace) {
            return Err(Error::unsupported(
                "--compress and --replace need write access to the pool's directory",
            )
            .hint("run the command as root on the host of the pool"));
        }
        let existing = if is_direct {
            request.compare_file(host)?
        } else {
            request.compare_volume(libvirt, pool.existing())?
        };
        let (sha256, volume, action) = (None, None, Action::Import);
        let mut plan = Self { request, qemu_user, action, is_direct, sha256, volume };
        match existing {
            Existing::Nothing => {}
            Existing::Same(volume) => {
                let (name, target) = (&plan.request.name, plan.request.target());
                disk_writers::check(libvirt, pool.pool_name(), name, &target)?;
                plan.action = Action::None;
                plan.sha256 = volume.sha256.clone();
                plan.volume = Some(*volume);
            }
            Existing::Different => {
                plan.request.check_replace(libvirt, pool.existing())?;
                plan.action = Action::Replace;
            }
        }
        plan.check_sha256_early()?;
        Ok(plan)
    }

    /// Checks the expected digest now, if nothing will be copied.
    fn check_sha256_early(&mut self) -> Result<()> {
        if self.request.options.sha256.is_none()
            || self.action != Action::None && !self.request.options.dry_run
        {
            return Ok(());
        }
        let sha256 = match self.sha256.take() {
            Some(known) => known,
            None => self.request.source.sha256()?,
        };
        self.request.check_sha256(&sha256)?;
        self.request.source.check_unchanged()?;
        self.sha256 = Some(sha256);
        Ok(())
    }

    /// The name of the volume.
    pub fn name(&self) -> &str {
        &self.request.name
    }

    /// Whether the plan replaces another image of the same name.
    pub fn replaces(&self) -> bool {
        self.action == Action::Replace
    }

    /// The base image after the import.
    pub fn base(&self) -> Base {
        Base {
            name: self.request.name.clone(),
            path: self.request.target(),
            format: self.format(),
            capacity_bytes: self.capacity_bytes(),
        }
    }

    /// The format of the volume.
    fn format(&self) -> Format {
        match &self.volume {
            Some(volume) => volume.image.format,
            None => self.request.format(),
        }
    }

    fn capacity_bytes(&self) -> u64 {
        let image = self.volume.as_ref().map_or(&self.request.source.image, |volume| &volume.image);
        image.virtual_size_bytes
    }

    /// The item of the plan for a document.
    pub fn item(self, pool: &str) -> ImportItem {
        ImportItem {
            pool: pool.to_owned(),
            pool_uuid: None,
            path: self.request.target().display().to_string(),
            format: self.format(),
            capacity_bytes: self.capacity_bytes(),
            source: self.request.source.path.display().to_string(),
            sha256: self.sha256,
            action: self.action,
            name: self.request.name,
        }
    }

    /// Executes the plan.
    ///
    /// Errors: those of reading, writing and libvirt. A failed import leaves nothing behind.
    pub fn apply(
        mut self,
        context: &Context,
        libvirt: &Libvirt,
        pool: &Pool,
    ) -> Result<(ImportItem, Base)> {
        let base = self.base();
        if self.action == Action::None {
            self.renew_record();
            return Ok((self.item(&pool.name), base));
        }
        let bar = progress_bar(context, self.request.source.image.file_size_bytes);
        let progress = |done| bar.set_position(done);
        let written = if self.is_direct {
            let replaces = self.replaces();
            self.request.write_file(context, libvirt, pool, self.qemu_user, replaces, &progress)
        } else {
            let owner = self.qemu_user;
            upload::upload(context, libvirt, pool, &self.request, owner, &progress).map(Some)
        };
        bar.finish_and_clear();
        self.sha256 = written?;
        pool.refresh()
            .map_err(|error| error.applied([format!("imported '{}'", self.request.name)]))?;
        Ok((self.item(&pool.name), base))
    }

    /// Writes this source to the record of a volume with the same content, so that the next import needs no comparison.
    fn renew_record(&mut self) {
        let (source, format) = (self.request.source.identity.clone(), Some(self.format()));
        if let Some((file, record)) = self.volume.as_mut().and_then(|volume| volume.stale.take()) {
            Record { source, format, ..record }.write(&file);
        }
    }
}

/// Whether this process can create files in the directory that QEMU can read. It can as root, or as the user that QEMU
/// runs as. For a directory that does not exist yet, its nearest existing parent decides.
fn can_write(folder: &Path, qemu: Option<QemuUser>) -> bool {
    let user = rustix::process::geteuid();
    let existing = folder.ancestors().find(|ancestor| ancestor.exists()).unwrap_or(folder);
    (user.is_root() || qemu.is_none_or(|qemu| qemu.uid == user.as_raw()))
        && access(existing, Access::WRITE_OK | Access::EXEC_OK).is_ok()
}
