//! The base image of a verb: a volume, a file to import, or an item of another tool's document.

use std::fs::File;
use std::path::{Path, PathBuf};

use common::cli::config::Config;
use common::cli::{Context, log};
use common::document::{Action, Item};
use common::libvirt::Libvirt;
use common::{Error, ErrorKind, Result};
use tdx_pool::image::SaidFormat;
use tdx_pool::image::record::Record;
use tdx_pool::import::plan::ImportPlan;
use tdx_pool::import::request::ImportOptions;
use tdx_pool::pool::Pool;
use tdx_pool::pool::plan::PoolPlan;
use tdx_pool::volume::claim::VolumeClaim;
use tdx_pool::volume::overlay::Base;

/// The base image: a volume of the pool, or a file that will be imported.
#[derive(Debug)]
pub enum BaseImage {
    /// A volume of the pool.
    Existing(Base),
    /// A file that will be imported.
    Import(Box<ImportPlan>),
}

impl BaseImage {
    /// Returns the image as the base of an overlay.
    pub fn base(&self) -> Base {
        match self {
            Self::Existing(base) => base.clone(),
            Self::Import(plan) => plan.base(),
        }
    }
}

/// What the image flags ask for, after `--base -` was read.
#[derive(Debug, Clone)]
pub struct ImageRequest {
    /// The pool of `--pool`, or of the item on standard input.
    pub pool: Option<String>,
    /// The image of `--td-image`: a volume or a file.
    pub image: Option<PathBuf>,
    /// The volume of `--base`, or of the item on standard input.
    pub base: Option<String>,
    /// The identity of the base image, as the item on standard input states it.
    pub claim: VolumeClaim,
    /// The formats that flags, items and records state.
    pub format: SaidFormat,
    /// Size of the guest's disk in bytes; `None` for the size of the image.
    pub disk_size: Option<u64>,
}

impl ImageRequest {
    /// Whether an image was named.
    pub fn is_named(&self) -> bool {
        self.image.is_some() || self.base.is_some()
    }

    /// Returns the name of the requested pool.
    pub fn pool(&self) -> Option<&str> {
        self.pool.as_deref()
    }

    /// Finds the image: first in the pool, then in the file system.
    ///
    /// Errors: `not_found`; those of [`ImportPlan::new`].
    fn find(
        &self,
        context: &Context,
        libvirt: &Libvirt,
        config: &Config,
        pool: &PoolPlan,
        warnings: &mut Vec<String>,
    ) -> Result<BaseImage> {
        if let Some(name) = &self.base {
            self.claim.expect(name, pool.existing(), context.host_name().as_deref())?;
            let absent = || Error::not_found(format!("pool '{}' does not exist", pool.pool_name()));
            let pool = pool.existing().ok_or_else(absent)?;
            pool.check_active()?;
            return Base::find(libvirt, pool, name, self.format).map(BaseImage::Existing);
        }
        let import = |path: &Path| {
            let options = ImportOptions { format: self.format.flag, ..ImportOptions::default() };
            let plan = ImportPlan::new(&context.host, libvirt, pool, path, options)?;
            Ok(BaseImage::Import(Box::new(plan)))
        };
        let in_pool = |name: &str| in_pool(libvirt, pool, name, self.format);
        let Some(image) = self.image.as_ref().or(config.image.as_ref()) else {
            return default_image(context, libvirt, pool, in_pool, import);
        };
        let Some(name) = bare_name(image) else {
            return import(image);
        };
        let base = in_pool(name)?;
        if base.as_ref().is_some_and(|base| image.exists() && !is_source(image, base)) {
            let (image, pool) = (image.display(), pool.pool_name());
            warnings.push(format!(
                "'{image}' is both a file and a volume: the volume of pool '{pool}' is used; write \
                 ./{image} for the file"
            ));
        }
        match base {
            Some(base) => Ok(BaseImage::Existing(base)),
            None => import(&unseen(libvirt, pool, name).unwrap_or_else(|| image.clone())),
        }
    }
}

/// Whether the record of the base image says that it was imported from this file, unchanged since.
fn is_source(image: &Path, base: &Base) -> bool {
    let record = File::open(&base.path).ok().and_then(|file| Record::read(&file));
    record.is_some_and(|record| image.metadata().is_ok_and(|file| record.source == (&file).into()))
}

/// Returns a file in the pool's directory that libvirt does not list, because the pool is not active or not
/// refreshed. An import of that file leaves it in its place.
fn unseen(libvirt: &Libvirt, pool: &PoolPlan, name: &str) -> Option<PathBuf> {
    let file = pool.folder().ok()?.join(name);
    (libvirt.is_local() && file.exists()).then_some(file)
}

/// A base image and its pool. Both exist or will be created.
#[derive(Debug)]
pub struct BaseSource {
    /// The pool.
    pub pool: PoolPlan,
    /// The image.
    pub image: BaseImage,
    /// Warnings for the user.
    pub warnings: Vec<String>,
}

/// How often to try again when other commands create the same pool or image.
const TRIES: usize = 4;

impl BaseSource {
    /// Finds pool and image, and checks what would have to be created.
    ///
    /// Errors: `not_found`; those of [`PoolPlan::new`] and [`ImportPlan::new`].
    pub fn find(
        context: &Context,
        libvirt: &Libvirt,
        config: &Config,
        request: &ImageRequest,
    ) -> Result<Self> {
        let pool = PoolPlan::new(libvirt, config, request.pool.as_deref(), None)?;
        let mut warnings = pool.warnings.clone();
        let image = request.find(context, libvirt, config, &pool, &mut warnings)?;
        Ok(Self { pool, image, warnings })
    }

    /// Finds pool and image again, after a question or after a change by another command. The definition was
    /// built for `base`.
    ///
    /// Errors: those of [`BaseSource::find`]; `conflict` if the image found is not `base`.
    pub fn find_again(
        base: &Base,
        context: &Context,
        libvirt: &Libvirt,
        config: &Config,
        request: &ImageRequest,
    ) -> Result<Self> {
        let now = Self::find(context, libvirt, config, request)?;
        match now.image.base() == *base {
            true => Ok(now),
            false => Err(Error::conflict(format!(
                "base image '{}' was changed while this command ran",
                base.name
            ))
            .hint("run the command again")),
        }
    }

    /// Starts the pool and imports the image. Returns the pool and a description of what was done.
    ///
    /// If another command creates the same pool or image at the same time, its result is checked and used.
    pub fn prepare(
        self,
        context: &Context,
        libvirt: &Libvirt,
        config: &Config,
        request: &ImageRequest,
    ) -> Result<(Pool, Vec<String>)> {
        let base = self.image.base();
        let mut source = self;
        let mut applied = Vec::new();
        for _ in 1..TRIES {
            match source.apply(context, libvirt, &mut applied) {
                Err(error) if error.kind() == ErrorKind::Conflict => {
                    log::step(format_args!("look up the pool and the image again: {error}"));
                    source = Self::find_again(&base, context, libvirt, config, request)?;
                }
                done => return done.map(|pool| (pool, applied)),
            }
        }
        source.apply(context, libvirt, &mut applied).map(|pool| (pool, applied))
    }

    fn apply(
        self,
        context: &Context,
        libvirt: &Libvirt,
        applied: &mut Vec<String>,
    ) -> Result<Pool> {
        let made = self.pool.existing().is_none();
        let pool = match self.image {
            BaseImage::Existing(_) => self.pool.apply_unless_ready(libvirt)?,
            BaseImage::Import(_) => self.pool.apply(libvirt)?,
        };
        applied.extend(made.then(|| format!("created pool '{}'", pool.name)));
        if let BaseImage::Import(plan) = self.image {
            let imported = plan.apply(context, libvirt, &pool);
            let (item, base) = imported.map_err(|error| error.applied(applied.clone()))?;
            if item.action().is_some_and(|action| action != Action::None) {
                applied.push(format!("imported volume '{}'", base.name));
            }
        }
        Ok(pool)
    }
}

/// Returns the name if it could be that of a volume: it has no directory.
fn bare_name(image: &Path) -> Option<&str> {
    image.to_str().filter(|name| !name.contains('/'))
}

fn in_pool(
    libvirt: &Libvirt,
    pool: &PoolPlan,
    name: &str,
    said: SaidFormat,
) -> Result<Option<Base>> {
    let Some(pool) = pool.existing().filter(|pool| pool.is_active()) else {
        return Ok(None);
    };
    match Pool::volume(pool, name)? {
        None => Ok(None),
        Some(_) => Base::find(libvirt, pool, name, said).map(Some),
    }
}

/// Finds the image that Canonical's instructions build for this release, in `./image` or in the pool.
fn default_image(
    context: &Context,
    libvirt: &Libvirt,
    pool: &PoolPlan,
    in_pool: impl FnOnce(&str) -> Result<Option<Base>>,
    import: impl FnOnce(&Path) -> Result<BaseImage>,
) -> Result<BaseImage> {
    let release = context.host.read("/etc/os-release")?.unwrap_or_default();
    let version = release.lines().find_map(|line| line.strip_prefix("VERSION_ID="));
    let version = version.unwrap_or_default().trim_matches('"');
    let name = format!("tdx-guest-ubuntu-{version}-generic.qcow2");
    let file = Path::new("image").join(&name);
    if file.exists() {
        return import(&file);
    }
    if let Some(base) = in_pool(&name)? {
        return Ok(BaseImage::Existing(base));
    }
    match unseen(libvirt, pool, &name) {
        Some(file) => import(&file),
        None => Err(Error::not_found(format!(
            "no image was given, and the default image {name} is neither in ./image nor in the pool"
        ))
        .hint("add --td-image IMAGE, or set image: in /etc/tdx/tdx.yaml")),
    }
}
