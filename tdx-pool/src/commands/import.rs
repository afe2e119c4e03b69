//! `tdx-pool import`: copies a disk image into the pool as a base image.
//!
//! The plan ([`ImportPlan`]) checks the header and the name of the image, and compares the image with a volume of that
//! name. Then the image is copied into the pool's directory under a temporary name, checked again, written to disk, and
//! renamed. The final name therefore only ever holds a complete, checked image. Users who cannot write to the directory
//! upload the image through libvirt.

use std::path::PathBuf;

use clap::Args;
use common::cli::config::Config;
use common::cli::{Change, Context, interrupt};
use common::document::output::Outcome;
use common::document::{Action, Document, input};
use common::libvirt::Libvirt;
use common::{Error, Result, name};
use serde::Deserialize;

use crate::commands::pool_args::PoolArgs;
use crate::image::Format;
pub use crate::import::item::ImportItem;
use crate::import::plan::ImportPlan;
use crate::import::request::ImportOptions;
use crate::pool::Pool;
use crate::pool::plan::PoolPlan;
use crate::volume::claim::VolumeClaim;

const EXAMPLES: &str = "Examples:
  tdx-pool import guest.qcow2
  tdx-pool import guest.qcow2 --name ubuntu.qcow2 --sha256 \"$(sha256sum guest.qcow2 | cut -c1-64)\"
  tdx-pool import guest.qcow2 | tdx-td new --base -";

/// Arguments of `import`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct ImportArgs {
    /// Path of the disk image; - reads JSON items, each with the key "path", from standard input
    #[arg(value_name = "IMAGE")]
    image: PathBuf,
    /// Name of the new volume [default: the file name of the image]
    #[arg(long, value_name = "VOLUME")]
    name: Option<String>,
    /// Format of the image [default: for a file outside the pool, the format in its header; for a volume of
    /// the pool, the format recorded at its import, otherwise the extension of its file name]
    #[arg(long, value_name = "FORMAT", value_enum)]
    image_format: Option<Format>,
    /// Fail unless the image has this SHA-256 digest
    #[arg(long, value_name = "HEX", value_parser = sha256_hex)]
    sha256: Option<String>,
    /// Replace an existing volume that has the same name but different contents, unless something uses that volume
    #[arg(long)]
    replace: bool,
    /// Recompress the image with qemu-img; the pool needs room for two copies during the import
    #[arg(long)]
    compress: bool,
    #[command(flatten)]
    pool: PoolArgs,
    #[command(flatten)]
    change: Change,
}

fn sha256_hex(text: &str) -> Result<String, String> {
    let digits = text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit());
    digits
        .then(|| text.to_ascii_lowercase())
        .ok_or_else(|| "a SHA-256 digest has 64 hexadecimal digits".to_owned())
}

/// Copies images into the pool. Creates the pool if it does not exist.
pub fn run(
    context: &Context,
    connect: impl FnOnce() -> Result<Libvirt>,
    config: &Config,
    args: ImportArgs,
) -> Result<Outcome> {
    let images = images(&args)?;
    let change = args.change;
    let libvirt = connect()?;
    interrupt::guard();
    images.iter().try_for_each(|image| image.expect_same(context, &libvirt))?;
    let pool = PoolPlan::new(&libvirt, config, args.pool.name(), None)?;
    let mut plans = Vec::new();
    for image in images {
        let options = ImportOptions {
            name: args.name.clone(),
            format: args.image_format,
            sha256: args.sha256.clone(),
            replace: args.replace,
            compress: args.compress,
            dry_run: change.dry_run,
        };
        plans.push(ImportPlan::new(&context.host, &libvirt, &pool, &image.path, options)?);
    }
    for plan in plans.iter().filter(|plan| plan.replaces()) {
        context.confirm(change, &format!("replace volume '{}'?", plan.name()))?;
    }
    let mut warnings = pool.warnings.clone();
    warnings.extend(pool.closed_to_qemu(&libvirt)?);
    let name = pool.pool_name().to_owned();
    let items = if change.dry_run {
        let pool_uuid = pool.existing().and_then(|pool| pool.uuid.clone());
        let item =
            |plan: ImportPlan| ImportItem { pool_uuid: pool_uuid.clone(), ..plan.item(&name) };
        plans.into_iter().map(item).collect()
    } else {
        let is_new = pool.existing().is_none();
        let pool = pool.apply(&libvirt)?;
        let made = is_new.then(|| format!("created pool '{name}'"));
        apply_all(context, &libvirt, &pool, plans).map_err(|error| error.applied(made))?
    };
    let document = Document::new("tdx.pool.import", items);
    Ok(document.dry_run(change.dry_run).warnings(warnings).into())
}

#[derive(Deserialize)]
struct ImageItem {
    #[serde(deserialize_with = "name::deserialize_path")]
    path: String,
    #[serde(default, deserialize_with = "name::deserialize_option")]
    pool: Option<String>,
    #[serde(flatten)]
    claim: VolumeClaim,
}

/// An image to import.
struct Image {
    path: PathBuf,
    /// The name of the pool that the item says contains the image.
    pool: Option<String>,
    claim: VolumeClaim,
}

impl Image {
    /// Compares the claims of an item with this machine, which always reads the file, and with the pool of the file if
    /// libvirt runs on this machine.
    ///
    /// Errors: `conflict` with code `IDENTITY_CHANGED`.
    fn expect_same(&self, context: &Context, libvirt: &Libvirt) -> Result<()> {
        let pool = match (&self.pool, &self.claim.pool_uuid) {
            (Some(pool), Some(_)) if libvirt.is_local() => Pool::by_name(libvirt, pool)?,
            _ => None,
        };
        let (name, host_name) = (self.path.display().to_string(), context.host.name());
        self.claim.expect(&name, pool.as_ref(), host_name.as_deref())
    }
}

fn images(args: &ImportArgs) -> Result<Vec<Image>> {
    if args.image.as_os_str() != input::STDIN {
        let path = args.image.clone();
        return Ok(vec![Image { path, pool: None, claim: VolumeClaim::default() }]);
    }
    let items: Vec<ImageItem> = input::items(
        &["tdx.pool.import", "tdx.pool.volumes"],
        "JSON items, each with the key 'path'",
    )?;
    if items.len() != 1 && (args.name.is_some() || args.sha256.is_some()) {
        let message = format!(
            "--name and --sha256 need exactly one image, but standard input has {}",
            items.len()
        );
        return Err(Error::usage(message));
    }
    let image =
        |item: ImageItem| Image { path: item.path.into(), pool: item.pool, claim: item.claim };
    Ok(items.into_iter().map(image).collect())
}

fn apply_all(
    context: &Context,
    libvirt: &Libvirt,
    pool: &Pool,
    plans: Vec<ImportPlan>,
) -> Result<Vec<ImportItem>> {
    let mut items: Vec<ImportItem> = Vec::new();
    for plan in plans {
        match plan.apply(context, libvirt, pool) {
            Ok((item, _)) => items.push(ImportItem { pool_uuid: pool.uuid.clone(), ..item }),
            Err(error) => {
                let done = items.iter().filter(|item| item.action != Action::None);
                return Err(error.applied(done.map(|item| format!("imported '{}'", item.name))));
            }
        }
    }
    Ok(items)
}
