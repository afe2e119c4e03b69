//! The base image a verb is about: a volume, a file to import, or what another tool printed.

use std::fs::File;
use std::path::{Path, PathBuf};

use clap::Args;
use common::cli::config::Config;
use common::cli::{Context, log};
use common::document::{Action, Item, input};
use common::libvirt::Libvirt;
use common::units::{self, Size};
use common::{Error, ErrorKind, Result, name};
use serde::Deserialize;
use tdx_pool::commands::import::Options;
use tdx_pool::commands::{ensure, import};
use tdx_pool::image::record::Record;
use tdx_pool::image::{Format, SaidFormat};
use tdx_pool::pool::Pool;
use tdx_pool::pool::identity::VolumeClaim;
use tdx_pool::pool::wanted::PoolArgs;
use tdx_pool::volume::overlay::Base;

/// Which image, into which pool.
#[derive(Debug, Args)]
pub struct ImageArgs {
    /// The disk image: a volume of the pool, or a file, which is imported
    #[arg(short = 'i', long, value_name = "IMAGE", conflicts_with = "base")]
    pub td_image: Option<PathBuf>,
    /// A volume of the pool, or - for what tdx-pool import or volumes printed
    #[arg(long, value_name = "VOLUME")]
    pub base: Option<String>,
    /// The image's format; without it a base image has that of its import's record, of the item on
    /// standard input or of its name, and an image that is used as it is that of its name
    #[arg(long, value_name = "FORMAT", value_enum)]
    pub image_format: Option<Format>,
    /// The pool's name [default: tdvirsh-pool, or the pool that owns its folder]
    #[arg(long, value_name = "NAME")]
    pub pool: Option<String>,
    /// Size of the guest's disk [default: that of the image]
    #[arg(long, value_name = "SIZE", value_parser = units::size_in(units::DISK))]
    pub disk_size: Option<Size>,
}

/// The base image settled: one that is in the pool, or one that will be.
#[derive(Debug)]
pub enum BaseImage {
    /// In the pool already.
    Existing(Base),
    /// To be imported.
    Import(Box<import::Plan>),
}

impl BaseImage {
    /// The image as an overlay's base.
    pub fn base(&self) -> Base {
        match self {
            Self::Existing(base) => base.clone(),
            Self::Import(plan) => plan.base(),
        }
    }
}

/// What a document for `--base -` must tell, and may tell.
#[derive(Deserialize)]
struct BaseItem {
    #[serde(deserialize_with = "name::deserialize")]
    name: String,
    #[serde(deserialize_with = "name::deserialize")]
    pool: String,
    #[serde(flatten)]
    claim: VolumeClaim,
    format: Option<String>,
    /// What was imported: only `tdx-pool import` tells, which has checked the image.
    source: Option<String>,
}

impl BaseItem {
    /// The format of an image that was imported. The `format` of a volume is libvirt's guess.
    fn imported_format(&self) -> Option<Format> {
        self.source.as_ref()?;
        Format::parse(self.format.as_deref()?)
    }
}

/// The image flags with `--base -` read.
#[derive(Debug, Clone)]
pub struct ImageRequest {
    pool: Option<String>,
    image: Option<PathBuf>,
    base: Option<String>,
    /// What the item on standard input says of the base image.
    claim: VolumeClaim,
    /// What is said of the image's format.
    pub format: SaidFormat,
    /// Size of the guest's disk, bytes; that of the image without it.
    pub disk_size: Option<u64>,
}

impl ImageRequest {
    /// Reads standard input where the flags say so.
    ///
    /// Errors: `invalid_input` for no such document, or not exactly one image in it.
    pub fn read(args: &ImageArgs) -> Result<Self> {
        let mut request = Self {
            pool: args.pool.clone(),
            image: args.td_image.clone(),
            base: args.base.clone(),
            claim: VolumeClaim::default(),
            format: SaidFormat { flag: args.image_format, ..SaidFormat::default() },
            disk_size: args.disk_size.map(|size| size.0),
        };
        if args.base.as_deref() == Some(input::STDIN) {
            let kinds = ["tdx.pool.import", "tdx.pool.volumes"];
            let items: Vec<BaseItem> = input::items(&kinds, "what tdx-pool import printed")?;
            let count = items.len();
            let [item] = <[BaseItem; 1]>::try_from(items).map_err(|_| {
                Error::invalid_input(format!("one base image was expected, {count} came"))
            })?;
            request.format.item = item.imported_format();
            let pool = item.pool;
            if args.pool.as_ref().is_some_and(|asked| *asked != pool) {
                return Err(Error::conflict(format!("the image is in pool '{pool}'")));
            }
            request.base = Some(item.name);
            request.pool = Some(pool);
            request.claim = item.claim;
        }
        Ok(request)
    }

    /// Whether an image was named.
    pub fn is_named(&self) -> bool {
        self.image.is_some() || self.base.is_some()
    }

    /// The pool that was named.
    pub fn pool(&self) -> Option<&str> {
        self.pool.as_deref()
    }

    /// Finds the image: the pool first, then the file system.
    ///
    /// Errors: `not_found`; whatever an import can be refused for.
    fn find(
        &self,
        context: &Context,
        libvirt: &Libvirt,
        config: &Config,
        pool: &ensure::Plan,
        warnings: &mut Vec<String>,
    ) -> Result<BaseImage> {
        if let Some(name) = &self.base {
            self.claim.expect(name, pool.found(), context.host_name().as_deref())?;
            let absent = || Error::not_found(format!("pool '{}' does not exist", pool.pool_name()));
            let pool = pool.found().ok_or_else(absent)?;
            pool.check_active()?;
            return Base::find(libvirt, pool, name, self.format).map(BaseImage::Existing);
        }
        let import = |path: &Path| {
            let options = Options { format: self.format.flag, ..Options::default() };
            let plan = import::Plan::new(&context.host, libvirt, pool, path, options)?;
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
                "'{image}' is taken from pool '{pool}'; name the file ./{image} to import it"
            ));
        }
        match base {
            Some(base) => Ok(BaseImage::Existing(base)),
            None => import(&unseen(libvirt, pool, name).unwrap_or_else(|| image.clone())),
        }
    }
}

/// Whether the base is known to have been imported from this very file, as it is now.
fn is_source(image: &Path, base: &Base) -> bool {
    let record = File::open(&base.path).ok().and_then(|file| Record::read(&file));
    record.is_some_and(|record| image.metadata().is_ok_and(|file| record.source == (&file).into()))
}

/// A file in the pool's folder that libvirt has not seen, since the pool is not started or not
/// refreshed. Importing it finds it in its place.
fn unseen(libvirt: &Libvirt, pool: &ensure::Plan, name: &str) -> Option<PathBuf> {
    let file = pool.folder().ok()?.join(name);
    (libvirt.is_local() && file.exists()).then_some(file)
}

/// A base image with its pool: there already, or to be made.
#[derive(Debug)]
pub struct BaseSource {
    /// The pool.
    pub pool: ensure::Plan,
    /// The image.
    pub image: BaseImage,
    /// What the user should know.
    pub warnings: Vec<String>,
}

/// How often to look again when other commands are making the same pool or image.
const TRIES: usize = 4;

impl BaseSource {
    /// Finds pool and image, and checks what would have to be made.
    ///
    /// Errors: `not_found`; whatever making the pool or an import can be refused for.
    pub fn find(
        context: &Context,
        libvirt: &Libvirt,
        config: &Config,
        request: &ImageRequest,
    ) -> Result<Self> {
        let pool = PoolArgs { pool: request.pool.clone() };
        let pool = ensure::Plan::new(libvirt, config, &pool, None)?;
        let mut warnings = pool.warnings.clone();
        let image = request.find(context, libvirt, config, &pool, &mut warnings)?;
        Ok(Self { pool, image, warnings })
    }

    /// Finds pool and image again, after a question that may have waited for long, or work of others. The
    /// definition is made for `base`, and for no other.
    ///
    /// Errors: those of [`BaseSource::find`]; `conflict` for another image.
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
            false => Err(Error::conflict(format!("image '{}' changed meanwhile", base.name))
                .hint("run the same command again")),
        }
    }

    /// Has the pool started and the image in it. Returns the pool and what was done, in words.
    ///
    /// Another command may be at the same work: then what it made is looked at and used.
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
                    log::step(format_args!("look again: {error}"));
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
        let made = self.pool.found().is_none();
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

/// A name that could be a volume's: no folder before it.
fn bare_name(image: &Path) -> Option<&str> {
    image.to_str().filter(|name| !name.contains('/'))
}

fn in_pool(
    libvirt: &Libvirt,
    pool: &ensure::Plan,
    name: &str,
    said: SaidFormat,
) -> Result<Option<Base>> {
    let Some(pool) = pool.found().filter(|pool| pool.is_active()) else {
        return Ok(None);
    };
    match Pool::volume(pool, name)? {
        None => Ok(None),
        Some(_) => Base::find(libvirt, pool, name, said).map(Some),
    }
}

/// The image that Canonical's instructions build for this release, in `./image` or in the pool.
fn default_image(
    context: &Context,
    libvirt: &Libvirt,
    pool: &ensure::Plan,
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
            "no image was named, and {name} is neither in ./image nor in the pool"
        ))
        .hint("name one with --td-image IMAGE, or set image: in /etc/tdx/tdx.yaml")),
    }
}
