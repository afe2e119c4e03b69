//! The disk a new domain is to have: an overlay over a base image, an empty disk of its own, or an
//! image of the user's, used as it is.

use std::path::{Path, PathBuf};

use common::cli::Context;
use common::cli::config::Config;
use common::libvirt::Libvirt;
use common::units::Size;
use common::{Error, ErrorKind, Result};
use tdx_pool::image::Format;
use tdx_pool::pool::plan::PoolPlan;
use tdx_pool::pool::qemu_user::QemuUser;
use tdx_pool::pool::{Pool, qemu_user};
use tdx_pool::volume::disk::{DiskOptions, Preallocated};
use tdx_pool::volume::new_volume::NewVolume;
use tdx_pool::volume::secret::Passphrase;
use tdx_pool::volume::{disk, overlay};

use crate::create::attached_image::UserImage;
use crate::create::base_image::{BaseImage, BaseSource, ImageRequest};
use crate::create::disk::Disk;
use crate::create::identity::new_uuid;
use crate::domain::definition::Definition;
use crate::scenario::disk_kind::DiskKind;
use crate::scenario::enums::{Compression, Preallocation};
use crate::scenario::profile::Storage;
use crate::scenario::resolve::ResolvedSettings;

/// The disk that is asked for, when it is no overlay.
#[derive(Debug, Clone, Default)]
pub struct DiskRequest {
    /// The size of an empty disk.
    pub blank: Option<Size>,
    /// An image that is used as it is.
    pub vmimage: Option<PathBuf>,
    /// A CD to boot from.
    pub cdrom: Option<PathBuf>,
    /// The file with the passphrase of an encrypted disk.
    pub passphrase_file: Option<PathBuf>,
}

impl DiskRequest {
    /// What kind of disk is asked for, beside an image or without.
    pub fn kind(&self, has_image: bool) -> DiskKind {
        match (&self.vmimage, self.blank, &self.cdrom) {
            (Some(_), ..) => DiskKind::Given,
            (None, Some(_), _) => DiskKind::New,
            (None, None, Some(_)) if !has_image => DiskKind::New,
            _ => DiskKind::Overlay,
        }
    }
}

/// A disk that is to be had.
#[derive(Debug)]
pub struct DiskPlan {
    backing: BackingSource,
    volume: Volume,
    /// The passphrase, as far as it is known without asking.
    passphrase: Option<Passphrase>,
    /// What the user should know.
    pub warnings: Vec<String>,
}

/// What has to be there before the disk can be made.
#[derive(Debug)]
enum BackingSource {
    /// A base image in its pool.
    Image(BaseSource),
    /// A pool.
    Pool(PoolPlan),
}

#[derive(Debug)]
enum Volume {
    Overlay(overlay::OverlayPlan),
    New(disk::DiskPlan),
    Given(UserImage),
}

impl DiskPlan {
    /// Finds what the disk is backed by, and plans it; `existing` is the domain that has it already.
    ///
    /// Errors: those of [`BaseSource::find`]; `conflict` for settings that such a disk cannot have, and for
    /// a base image that QEMU could not read; `not_found` and `invalid_input` for images.
    pub fn plan(
        context: &Context,
        libvirt: &Libvirt,
        config: &Config,
        request: &ImageRequest,
        args: &DiskRequest,
        choice: Option<&ResolvedSettings>,
        (qemu, existing): (Option<QemuUser>, Option<&Definition>),
    ) -> Result<Self> {
        let kind = args.kind(request.is_named());
        check_flags(request, args, choice, kind)?;
        let pool = || {
            let folder = choice.and_then(|choice| choice.disk_folder.as_deref());
            let folder = folder.filter(|_| request.pool().is_none() && kind == DiskKind::New);
            PoolPlan::new(libvirt, config, request.pool(), folder)
        };
        let (ground, volume) = match (kind, choice) {
            (DiskKind::New, Some(choice)) => {
                let pool = pool()?;
                let shape = disk_options(&choice.profile.storage)?;
                let plan = disk::DiskPlan::new(pool.folder()?, shape, &new_uuid()?)?;
                (BackingSource::Pool(pool), Volume::New(plan))
            }
            (DiskKind::Given, _) => {
                let path = args.vmimage.as_deref().unwrap_or(Path::new(""));
                let image = UserImage::find(libvirt, path, request.format.flag, existing)?;
                (BackingSource::Pool(pool()?), Volume::Given(image))
            }
            _ => {
                let mut request = request.clone();
                request.format.definition = existing.and_then(Definition::base_format);
                let source = BaseSource::find(context, libvirt, config, &request)?;
                let base = source.image.base();
                if let (BaseImage::Existing(base), Some(qemu), true) =
                    (&source.image, qemu, libvirt.is_local())
                {
                    qemu_user::check_readable(&base.path, qemu)?;
                }
                let plan =
                    overlay::OverlayPlan::new(source.pool.folder()?, base, request.disk_size)?;
                (BackingSource::Image(source), Volume::Overlay(plan))
            }
        };
        let mut warnings = match &ground {
            BackingSource::Image(source) => source.warnings.clone(),
            BackingSource::Pool(pool) => pool.warnings.clone(),
        };
        let file = args.passphrase_file.as_deref();
        if file.is_some() && !is_encrypted(&volume) {
            return Err(Error::usage("--passphrase-file is for a disk that is made encrypted")
                .hint("add --set storage.encryption=on"));
        }
        let passphrase = file.map(Passphrase::read).transpose()?;
        let folder = choice.and_then(|choice| choice.disk_folder.as_ref());
        let folder = folder.filter(|_| kind != DiskKind::New || request.pool().is_some());
        warnings.extend(folder.map(|folder| {
            let folder = folder.display();
            format!("path {folder} in the user settings is for disks that are made, without --pool")
        }));
        Ok(Self { backing: ground, volume, passphrase, warnings })
    }

    /// The disk as the definition has it.
    pub fn disk(&self) -> Disk {
        match &self.volume {
            Volume::Overlay(plan) => {
                Disk::Overlay { path: plan.path.clone(), base: plan.base.clone() }
            }
            Volume::New(plan) => Disk::New {
                path: plan.path.clone(),
                format: plan.options.format,
                secret: plan.secret.clone(),
            },
            Volume::Given(image) => image.disk(),
        }
    }

    fn pool(&self) -> &PoolPlan {
        match &self.backing {
            BackingSource::Image(source) => &source.pool,
            BackingSource::Pool(pool) => pool,
        }
    }

    /// The pool's name.
    pub fn pool_name(&self) -> &str {
        self.pool().pool_name()
    }

    /// The pool's folder.
    ///
    /// Errors: `unsupported` for a pool of a kind that has none.
    pub fn folder(&self) -> Result<&Path> {
        self.pool().folder()
    }

    /// What was asked for, in the form a later `new` of the same name compares. The base of an overlay
    /// is compared by itself.
    pub fn request(&self) -> Option<(String, String)> {
        let disk = match &self.volume {
            Volume::Overlay(_) => return None,
            Volume::New(_) => "new".to_owned(),
            Volume::Given(image) => image.disk().path().display().to_string(),
        };
        Some(("disk".to_owned(), disk))
    }

    /// The format in which `existing` uses the user's own image, if another one is stated.
    pub fn other_format(&self, stated: Option<Format>, existing: &Definition) -> Option<Format> {
        let Volume::Given(image) = &self.volume else { return None };
        existing
            .disk_format(image.disk().path())
            .filter(|format| stated.is_some_and(|s| s != *format))
    }

    /// Asks for what is secret, and has pool and base image ready. Returns what only has to be made,
    /// the pool if anything will be in it, and what was done, in words. After a question that was `asked`
    /// the base image is looked at again.
    ///
    /// Errors: `usage` when there is nobody to ask; whatever making the pool or an import can be
    /// refused for.
    pub fn prepare(
        self,
        context: &Context,
        libvirt: &Libvirt,
        config: &Config,
        request: &ImageRequest,
        (in_pool, asked): (bool, bool),
    ) -> Result<(PreparedDisk, Option<Pool>, Vec<String>)> {
        let ask = is_encrypted(&self.volume) && self.passphrase.is_none();
        let passphrase = match ask {
            true => Some(ask_for_passphrase(context)?),
            false => self.passphrase,
        };
        let ready = PreparedDisk { volume: self.volume, passphrase };
        let (pool, applied) = match self.backing {
            BackingSource::Image(source) => {
                let source = match asked {
                    true => {
                        let base = source.image.base();
                        BaseSource::find_again(&base, context, libvirt, config, request)?
                    }
                    false => source,
                };
                let (pool, applied) = source.prepare(context, libvirt, config, request)?;
                (Some(pool), applied)
            }
            BackingSource::Pool(_) if !in_pool && matches!(ready.volume, Volume::Given(_)) => {
                (None, Vec::new())
            }
            BackingSource::Pool(pool) => {
                let made = pool
                    .existing()
                    .is_none()
                    .then(|| format!("created pool '{}'", pool.pool_name()));
                (Some(pool.apply_unless_ready(libvirt)?), made.into_iter().collect())
            }
        };
        Ok((ready, pool, applied))
    }
}

fn is_encrypted(volume: &Volume) -> bool {
    matches!(volume, Volume::New(plan) if plan.secret.is_some())
}

/// A disk that only has to be made.
#[derive(Debug)]
pub struct PreparedDisk {
    volume: Volume,
    passphrase: Option<Passphrase>,
}

impl PreparedDisk {
    /// Makes the disk, or looks again at the user's own.
    ///
    /// Errors: what libvirt says; those of [`UserImage::check_again`].
    pub fn create(
        &self,
        context: &Context,
        libvirt: &Libvirt,
        pool: Option<&Pool>,
        owner: Option<QemuUser>,
    ) -> Result<Option<NewVolume>> {
        let host = &context.host;
        match (&self.volume, pool) {
            (Volume::Overlay(plan), Some(pool)) => {
                plan.create(host, libvirt, pool, owner).map(Some)
            }
            (Volume::New(plan), Some(pool)) => {
                plan.create(host, libvirt, pool, owner, self.passphrase.as_ref()).map(Some)
            }
            (Volume::Given(image), _) => image.check_again(libvirt).map(|()| None),
            _ => Ok(None),
        }
    }
}

/// Fails for flags that have no meaning for a disk of this kind.
///
/// Errors: `usage`; those of [`check_unencrypted`].
fn check_flags(
    request: &ImageRequest,
    args: &DiskRequest,
    choice: Option<&ResolvedSettings>,
    kind: DiskKind,
) -> Result<()> {
    if request.format.flag.is_some() && kind == DiskKind::New {
        return Err(Error::usage("--image-format is for an image, and none is named")
            .hint("--td-image, --base or --vmimage names one"));
    }
    if let (Some(choice), true) = (choice, kind != DiskKind::New) {
        check_unencrypted(choice, kind)?;
    }
    if args.passphrase_file.is_some() && kind != DiskKind::New {
        return Err(Error::usage("--passphrase-file is for a disk that is made encrypted")
            .hint("--blank SIZE makes an empty disk"));
    }
    Ok(())
}

/// Fails when encryption was asked for, of a disk that is not made here.
///
/// Errors: `conflict`.
fn check_unencrypted(choice: &ResolvedSettings, kind: DiskKind) -> Result<()> {
    if choice.profile.storage.encryption.0 && choice.is_assigned("storage.encryption") {
        let disk =
            if kind == DiskKind::Given { "a user's own" } else { "an overlay over a base image" };
        return Err(Error::conflict(format!("storage.encryption is on, but the disk is {disk}"))
            .hint("--blank SIZE makes an encrypted disk; encrypt inside the guest otherwise"));
    }
    Ok(())
}

/// The smallest disk that is made, bytes.
const LEAST: u64 = 1 << 20;

/// What is asked of libvirt, which makes the disk.
///
/// Errors: `unsupported` for what it cannot.
fn disk_options(storage: &Storage) -> Result<DiskOptions> {
    let refuse = |setting: &str, instead: &str| {
        Err(Error::unsupported(format!("libvirt makes no disk with {setting}"))
            .hint(format!("--set {instead}")))
    };
    if storage.compression_type == Some(Compression::Zstd) {
        return refuse("storage.compression_type zstd", "storage.compression_type=zlib");
    }
    let allocated = match storage.preallocation {
        Preallocation::Off => Preallocated::Off,
        Preallocation::Metadata => Preallocated::Metadata,
        Preallocation::Falloc => Preallocated::Full,
        Preallocation::Full => {
            return refuse("storage.preallocation full", "storage.preallocation=falloc");
        }
    };
    let size = |size: Option<Size>| size.map(|Size(bytes)| bytes);
    let capacity_bytes = size(storage.capacity).unwrap_or_default();
    if capacity_bytes < LEAST {
        return Err(Error::usage(format!("a disk of {} holds nothing", Size(capacity_bytes)))
            .hint("--blank 20G, for one, says how large it is"));
    }
    Ok(DiskOptions {
        format: storage.format,
        capacity_bytes,
        allocated,
        cluster_bytes: size(storage.cluster_size),
        lazy_refcounts: storage.lazy_refcounts.0,
        encrypted: storage.encryption.0,
    })
}

/// Asks twice, since nobody sees what they type.
///
/// Errors: `usage` when there is nobody to ask, or the two differ.
fn ask_for_passphrase(context: &Context) -> Result<Passphrase> {
    let ask = |question| {
        let answer = context.ask_secret(question).map_err(|error| match error.kind() {
            ErrorKind::Usage => error.hint(
                "--passphrase-file FILE names a file with it, --set storage.encryption=off needs none",
            ),
            _ => error,
        })?;
        answer.ok_or_else(|| Error::usage("no passphrase was typed: the input ended"))
    };
    let first = ask("passphrase of the guest's disk: ")?;
    if ask("once more: ")? != first {
        return Err(Error::usage("the two passphrases differ"));
    }
    Passphrase::new(first).map_err(|why| Error::usage(format!("that is no passphrase: {why}")))
}
