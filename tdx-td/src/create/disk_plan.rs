//! The plan of a new domain's disk: an overlay backed by a base image, a new empty disk, or the image of
//! `--vmimage`.

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

/// The flags for a disk that is not an overlay.
#[derive(Debug, Clone, Default)]
pub struct DiskRequest {
    /// Size of a new empty disk.
    pub blank: Option<Size>,
    /// The image of `--vmimage`, used directly.
    pub vmimage: Option<PathBuf>,
    /// The CD image to boot from.
    pub cdrom: Option<PathBuf>,
    /// The file with the passphrase of an encrypted disk.
    pub passphrase_file: Option<PathBuf>,
}

impl DiskRequest {
    /// Returns the kind of disk that the flags ask for. `has_image` says whether an image was named.
    pub fn kind(&self, has_image: bool) -> DiskKind {
        match (&self.vmimage, self.blank, &self.cdrom) {
            (Some(_), ..) => DiskKind::Given,
            (None, Some(_), _) => DiskKind::New,
            (None, None, Some(_)) if !has_image => DiskKind::New,
            _ => DiskKind::Overlay,
        }
    }
}

/// The plan of a disk.
#[derive(Debug)]
pub struct DiskPlan {
    backing: BackingSource,
    volume: Volume,
    /// The passphrase, if it is known without a question.
    passphrase: Option<Passphrase>,
    /// Warnings for the user.
    pub warnings: Vec<String>,
}

/// What must exist before the disk can be created.
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
    /// Finds the base image or pool, and plans the disk. `existing` is an existing domain of the same name.
    ///
    /// Errors: those of [`BaseSource::find`]; `conflict` for settings that the disk cannot have, and for
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
            return Err(Error::usage("--passphrase-file needs an encrypted disk")
                .hint("add --set storage.encryption=on"));
        }
        let passphrase = file.map(Passphrase::read).transpose()?;
        let folder = choice.and_then(|choice| choice.disk_folder.as_ref());
        let folder = folder.filter(|_| kind != DiskKind::New || request.pool().is_some());
        warnings.extend(folder.map(|folder| {
            let folder = folder.display();
            format!(
                "path {folder} in the user settings is ignored: it applies only to disks created \
                 without --pool"
            )
        }));
        Ok(Self { backing: ground, volume, passphrase, warnings })
    }

    /// Returns the disk for the definition.
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

    /// Returns the name of the pool.
    pub fn pool_name(&self) -> &str {
        self.pool().pool_name()
    }

    /// Returns the directory of the pool.
    ///
    /// Errors: `unsupported` for a pool of a type without a directory.
    pub fn folder(&self) -> Result<&Path> {
        self.pool().folder()
    }

    /// Returns the request in the form that a later `new` of the same name compares. The base image of an
    /// overlay is compared separately.
    pub fn request(&self) -> Option<(String, String)> {
        let disk = match &self.volume {
            Volume::Overlay(_) => return None,
            Volume::New(_) => "new".to_owned(),
            Volume::Given(image) => image.disk().path().display().to_string(),
        };
        Some(("disk".to_owned(), disk))
    }

    /// Returns the format in which `existing` uses the image of `--vmimage`, if `stated` is another format.
    pub fn other_format(&self, stated: Option<Format>, existing: &Definition) -> Option<Format> {
        let Volume::Given(image) = &self.volume else { return None };
        existing
            .disk_format(image.disk().path())
            .filter(|format| stated.is_some_and(|s| s != *format))
    }

    /// Asks for the passphrase, starts the pool and imports the base image. Returns the prepared disk, the
    /// pool if anything will be in it, and descriptions of what was done. If the user was `asked` a question,
    /// the base image is checked again.
    ///
    /// Errors: `usage` if there is no terminal to ask on; those of [`BaseSource::prepare`].
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

/// A disk whose pool, base image and passphrase are ready.
#[derive(Debug)]
pub struct PreparedDisk {
    volume: Volume,
    passphrase: Option<Passphrase>,
}

impl PreparedDisk {
    /// Creates the disk, or checks the image of `--vmimage` again.
    ///
    /// Errors: those of libvirt; those of [`UserImage::check_again`].
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

/// Fails for flags that do not apply to a disk of this kind.
///
/// Errors: `usage`; those of [`check_unencrypted`].
fn check_flags(
    request: &ImageRequest,
    args: &DiskRequest,
    choice: Option<&ResolvedSettings>,
    kind: DiskKind,
) -> Result<()> {
    if request.format.flag.is_some() && kind == DiskKind::New {
        return Err(Error::usage("--image-format needs an image")
            .hint("add --td-image, --base or --vmimage"));
    }
    if let (Some(choice), true) = (choice, kind != DiskKind::New) {
        check_unencrypted(choice, kind)?;
    }
    if args.passphrase_file.is_some() && kind != DiskKind::New {
        return Err(Error::usage(
            "--passphrase-file needs an encrypted disk, which only --blank creates",
        )
        .hint("add --blank SIZE --set storage.encryption=on"));
    }
    Ok(())
}

/// Fails if encryption was requested for a disk that is not created here.
///
/// Errors: `conflict`.
fn check_unencrypted(choice: &ResolvedSettings, kind: DiskKind) -> Result<()> {
    if choice.profile.storage.encryption.0 && choice.is_assigned("storage.encryption") {
        let disk = if kind == DiskKind::Given {
            "an existing image"
        } else {
            "an overlay of a base image"
        };
        return Err(Error::conflict(format!(
            "storage.encryption is on, but the disk is {disk}, which cannot be encrypted"
        ))
        .hint("create an encrypted disk with --blank SIZE, or encrypt inside the guest"));
    }
    Ok(())
}

/// The smallest size of a new disk, in bytes.
const LEAST: u64 = 1 << 20;

/// Returns the options of the disk that libvirt creates.
///
/// Errors: `unsupported` for settings that libvirt does not support.
fn disk_options(storage: &Storage) -> Result<DiskOptions> {
    let refuse = |setting: &str, instead: &str| {
        Err(Error::unsupported(format!("libvirt cannot create a disk with {setting}"))
            .hint(format!("add --set {instead}")))
    };
    if storage.compression_type == Some(Compression::Zstd) {
        return refuse("storage.compression_type=zstd", "storage.compression_type=zlib");
    }
    let allocated = match storage.preallocation {
        Preallocation::Off => Preallocated::Off,
        Preallocation::Metadata => Preallocated::Metadata,
        Preallocation::Falloc => Preallocated::Full,
        Preallocation::Full => {
            return refuse("storage.preallocation=full", "storage.preallocation=falloc");
        }
    };
    let size = |size: Option<Size>| size.map(|Size(bytes)| bytes);
    let capacity_bytes = size(storage.capacity).unwrap_or_default();
    if capacity_bytes < LEAST {
        return Err(Error::usage(format!(
            "the size of the disk is {}, but must be at least {}",
            Size(capacity_bytes),
            Size(LEAST)
        ))
        .hint("give a size, such as --blank 20G"));
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

/// Asks for the passphrase twice, because it is not shown while it is typed.
///
/// Errors: `usage` if there is no terminal to ask on, or if the two differ.
fn ask_for_passphrase(context: &Context) -> Result<Passphrase> {
    let ask = |question| {
        let answer = context.ask_secret(question).map_err(|error| match error.kind() {
            ErrorKind::Usage => error.hint(
                "pass the passphrase with --passphrase-file FILE, or create the disk without encryption: \
                 --set storage.encryption=off",
            ),
            _ => error,
        })?;
        answer.ok_or_else(|| Error::usage("no passphrase was entered: end of input"))
    };
    let first = ask("passphrase for the guest's disk: ")?;
    if ask("repeat the passphrase: ")? != first {
        return Err(Error::usage("the two passphrases differ"));
    }
    Passphrase::new(first).map_err(|why| Error::usage(format!("invalid passphrase: {why}")))
}
