//! What it takes to have an image in a pool.

use std::path::{Path, PathBuf};

use common::cli::Context;
use common::document::Action;
use common::image::keys;
use common::libvirt::Libvirt;
use common::system::sysroot::Host;
use common::{Error, Result};
use indicatif::{ProgressBar, ProgressStyle};
use rustix::fs::{Access, access};

use super::compare::{Existing, ExistingVolume};
use crate::commands::ensure;
use crate::commands::import::{ImportItem, Source};
use crate::image::record::Record;
use crate::image::{Format, StatedFormat};
use crate::import::upload;
use crate::pool::qemu_user::QemuUser;
use crate::pool::{Pool, qemu_user};
use crate::references::dependents::{Dependents, may_need};
use crate::references::disk_writers;
use crate::references::open_files::HeldFiles;
use crate::volume::names::check_volume_name;
use crate::volume::overlay::Base;

/// How to import.
#[derive(Debug, Default)]
pub struct ImportOptions {
    /// The volume's name; the file's without it.
    pub name: Option<String>,
    /// The image's format, as `--image-format` states it.
    pub format: Option<Format>,
    /// What the source's bytes must hash to, lower-case hexadecimal.
    pub sha256: Option<String>,
    /// Whether a different image of that name may go.
    pub replace: bool,
    /// Whether to recompress.
    pub compress: bool,
    /// Whether this plan is only looked at: then the digest is checked while planning.
    pub dry_run: bool,
}

/// What it takes to have the image in the pool.
#[derive(Debug)]
pub struct ImportPlan {
    /// The volume's name.
    pub name: String,
    pub(crate) folder: PathBuf,
    pub(crate) source: Source,
    pub(crate) options: ImportOptions,
    pub(crate) owner: Option<QemuUser>,
    pub(crate) action: Action,
    /// Written by us, not by libvirt.
    direct: bool,
    /// The digest of the source, as far as it is known.
    sha256: Option<String>,
    /// The volume that is the image already.
    volume: Option<ExistingVolume>,
}

impl ImportPlan {
    /// Checks the image and what the pool has under its name.
    ///
    /// Errors: those of [`Source::open`]; `invalid_input` for an image that is not what its format is
    /// stated to be; `usage` for a name that cannot be; `conflict` when another image has the name, naming
    /// its users where it was to be replaced, and when a domain writes to the volume.
    pub fn new(
        host: &Host,
        libvirt: &Libvirt,
        pool: &ensure::PoolPlan,
        image: &Path,
        options: ImportOptions,
    ) -> Result<Self> {
        let source = Source::open(image)?;
        if let Some(format) = options.format {
            StatedFormat::by_flag(format).check(source.image.format, &source.path)?;
        }
        let name = match &options.name {
            Some(name) => name.clone(),
            None => file_name(image)?,
        };
        check_volume_name(&name)?;
        let folder = pool.folder()?.to_owned();
        let owner = qemu_user::qemu_user(libvirt)?;
        let direct = libvirt.is_local() && is_ours_to_write(&folder, owner);
        if !direct && (options.compress || options.replace) {
            return Err(Error::unsupported(
                "--compress and --replace need to write the pool's folder",
            )
            .hint("be root on the host that has the pool"));
        }
        let mut plan = Self {
            name,
            folder,
            source,
            options,
            owner,
            action: Action::Import,
            direct,
            sha256: None,
            volume: None,
        };
        let existing = match direct {
            true => plan.compare_file(host)?,
            false => plan.compare_volume(libvirt, pool.existing())?,
        };
        match existing {
            Existing::Nothing => {}
            Existing::Same(volume) => {
                disk_writers::check(libvirt, pool.pool_name(), &plan.name, &plan.target())?;
                plan.action = Action::None;
                plan.sha256 = volume.sha256.clone();
                plan.volume = Some(*volume);
            }
            Existing::Different => {
                plan.check_replace(libvirt, pool.existing())?;
                plan.action = Action::Replace;
            }
        }
        plan.check_sha256_early()?;
        Ok(plan)
    }

    /// Checks the promised digest where nothing will be copied.
    fn check_sha256_early(&mut self) -> Result<()> {
        if self.options.sha256.is_none() || self.action != Action::None && !self.options.dry_run {
            return Ok(());
        }
        let sha256 = match self.sha256.take() {
            Some(known) => known,
            None => self.source.sha256()?,
        };
        self.check_sha256(&sha256)?;
        self.source.check_unchanged()?;
        self.sha256 = Some(sha256);
        Ok(())
    }

    pub(crate) fn target(&self) -> PathBuf {
        self.folder.join(&self.name)
    }

    /// Whether another image goes for it.
    pub fn replaces(&self) -> bool {
        self.action == Action::Replace
    }

    /// Fails unless the image that has the name may go. Asked again right before it does: copying
    /// takes time, in which an overlay may have been put on it.
    pub(crate) fn check_replace(&self, libvirt: &Libvirt, pool: Option<&Pool>) -> Result<()> {
        let (name, source) = (&self.name, self.source.path.display());
        let differs = format!("volume '{name}' exists and differs from {source}");
        if !self.options.replace {
            return Err(
                Error::conflict(differs).hint("choose another name with --name, or --replace it")
            );
        }
        let Some(pool) = pool.filter(|pool| pool.is_active()) else {
            return Ok(());
        };
        let (needs, target) = (Dependents::take(libvirt, pool)?, self.target());
        let users = needs.users_of(&target);
        let another = "import it under another name with --name";
        if !users.is_empty() {
            let users = users.join(", ");
            return Err(
                Error::conflict(format!("{differs}, and is needed by {users}")).hint(another)
            );
        }
        if HeldFiles::visible(&Host::new("/"))?.contains(&keys(&target).collect::<Vec<_>>()) {
            let message = format!("{differs}, and is open in a process or locked");
            return Err(Error::conflict(message).hint(another));
        }
        match needs.unknown(&target) {
            Some(unknown) => Err(may_need(format!("{differs}, and may be needed"), unknown)),
            None => Ok(()),
        }
    }

    /// Fails when the source's digest is not the one that was promised.
    pub(crate) fn check_sha256(&self, found: &str) -> Result<()> {
        match &self.options.sha256 {
            Some(wanted) if wanted != found => Err(Error::invalid_input(format!(
                "{} has SHA-256 {found}, not {wanted}",
                self.source.path.display()
            ))),
            _ => Ok(()),
        }
    }

    /// The base image as it will be.
    pub fn base(&self) -> Base {
        Base {
            name: self.name.clone(),
            path: self.target(),
            format: self.format(),
            capacity_bytes: self.capacity_bytes(),
        }
    }

    /// The format of the volume.
    pub(crate) fn format(&self) -> Format {
        match &self.volume {
            Some(volume) => volume.image.format,
            None if self.options.compress => Format::Qcow2,
            None => self.source.image.format,
        }
    }

    fn capacity_bytes(&self) -> u64 {
        let image = self.volume.as_ref().map_or(&self.source.image, |volume| &volume.image);
        image.virtual_size_bytes
    }

    /// The item of a document about this plan.
    pub fn item(self, pool: &str) -> ImportItem {
        ImportItem {
            pool: pool.to_owned(),
            pool_uuid: None,
            path: self.target().display().to_string(),
            format: self.format(),
            capacity_bytes: self.capacity_bytes(),
            source: self.source.path.display().to_string(),
            sha256: self.sha256,
            action: self.action,
            name: self.name,
        }
    }

    /// Carries the plan out.
    ///
    /// Errors: whatever reading, writing and libvirt can fail with; nothing is left of the attempt.
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
        let bar = progress_bar(context, self.source.image.file_size_bytes);
        let progress = |done| bar.set_position(done);
        let written = match self.direct {
            true => self.write_file(context, libvirt, pool, &progress),
            false => upload::upload(context, libvirt, pool, &self, &progress).map(Some),
        };
        bar.finish_and_clear();
        self.sha256 = written?;
        pool.refresh().map_err(|error| error.applied([format!("imported '{}'", self.name)]))?;
        Ok((self.item(&pool.name), base))
    }
}

impl ImportPlan {
    /// Notes in the volume's record that it equals this source, too. Only saves the next import work.
    fn renew_record(&mut self) {
        let (source, format) = (self.source.identity.clone(), Some(self.format()));
        if let Some((file, record)) = self.volume.as_mut().and_then(|volume| volume.stale.take()) {
            Record { source, format, ..record }.write(&file);
        }
    }
}

fn file_name(image: &Path) -> Result<String> {
    let name = image.file_name().unwrap_or_default();
    name.to_str().map(str::to_owned).ok_or_else(|| {
        Error::usage(format!("the file name of {} is not UTF-8", image.display()))
            .hint("choose the volume's name with --name")
    })
}

/// Whether files can be made in the folder, or in the one it will be made in, such that QEMU can read
/// them: by root, or by the user that QEMU itself runs as.
fn is_ours_to_write(folder: &Path, qemu: Option<QemuUser>) -> bool {
    let user = rustix::process::geteuid();
    let existing = folder.ancestors().find(|ancestor| ancestor.exists()).unwrap_or(folder);
    (user.is_root() || qemu.is_none_or(|qemu| qemu.uid == user.as_raw()))
        && access(existing, Access::WRITE_OK | Access::EXEC_OK).is_ok()
}

fn progress_bar(context: &Context, total: u64) -> ProgressBar {
    if !context.progress {
        return ProgressBar::hidden();
    }
    let style = "{bar:40} {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left";
    let bar = ProgressBar::new(total);
    bar.set_style(
        ProgressStyle::with_template(style).unwrap_or_else(|_| ProgressStyle::default_bar()),
    );
    bar
}
