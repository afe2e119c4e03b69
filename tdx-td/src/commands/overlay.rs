//! `tdx-td overlay`: creates a copy-on-write disk backed by a base image, for domains of other programs.

use std::borrow::Cow;

use clap::Args;
use common::Result;
use common::cli::config::Config;
use common::cli::{Change, Context, interrupt};
use common::document::output::Outcome;
use common::document::{Action, Document, Item};
use common::libvirt::Libvirt;
use common::units::Size;
use schemars::JsonSchema;
use serde::Serialize;
use tdx_pool::pool::qemu_user;
use tdx_pool::volume::overlay;

use crate::commands::args::image::ImageArgs;
use crate::create::base_image::BaseSource;

const EXAMPLES: &str = "Examples:
  tdx-td overlay -i guest.qcow2
  tdx-pool import guest.qcow2 | tdx-td overlay --base - --disk-size 20G";

/// Arguments of `overlay`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct OverlayArgs {
    #[command(flatten)]
    image: ImageArgs,
    #[command(flatten, next_help_heading = None::<&str>)]
    change: Change,
}

/// An overlay that the verb created.
#[derive(Debug, Serialize, JsonSchema)]
pub struct OverlayItem {
    /// Name of the volume.
    name: String,
    /// Name of the pool.
    pool: String,
    /// UUID of the pool; null in a dry run that would create the pool.
    pool_uuid: Option<String>,
    /// Path of the overlay.
    path: String,
    /// Path of the base image that backs the overlay.
    base: String,
    /// Size of the disk as a guest sees it, in bytes.
    capacity_bytes: u64,
    /// Always `create`.
    action: Action,
}

impl Item for OverlayItem {
    const COLUMNS: &'static [&'static str] = &["NAME", "CAPACITY", "BASE", "PATH"];
    const DROPPED: &'static [&'static str] = &["PATH"];

    fn key(&self) -> Cow<'_, str> {
        self.name.as_str().into()
    }

    fn row(&self) -> Vec<String> {
        let size = Size(self.capacity_bytes).to_string();
        vec![self.name.clone(), size, self.base.clone(), self.path.clone()]
    }

    fn action(&self) -> Option<Action> {
        Some(self.action)
    }
}

/// Creates an overlay. Until a domain uses the overlay, `tdx-pool cleanup` treats it as an orphan.
pub fn run(
    context: &Context,
    connect: impl FnOnce() -> Result<Libvirt>,
    config: &Config,
    args: OverlayArgs,
) -> Result<Outcome> {
    let request = args.image.read()?;
    let libvirt = connect()?;
    interrupt::guard();
    let source = BaseSource::find(context, &libvirt, config, &request)?;
    let warnings = source.warnings.clone();
    let plan =
        overlay::OverlayPlan::new(source.pool.folder()?, source.image.base(), request.disk_size)?;
    let mut item = OverlayItem {
        name: plan.name.clone(),
        pool: source.pool.pool_name().to_owned(),
        pool_uuid: source.pool.existing().and_then(|pool| pool.uuid.clone()),
        path: plan.path.display().to_string(),
        base: plan.base.path.display().to_string(),
        capacity_bytes: plan.capacity_bytes,
        action: Action::Create,
    };
    if !args.change.dry_run {
        let (pool, applied) = source.prepare(context, &libvirt, config, &request)?;
        item.pool_uuid = pool.uuid.clone();
        interrupt::check()
            .and_then(|()| {
                plan.create(&context.host, &libvirt, &pool, qemu_user::qemu_user(&libvirt)?)
            })
            .map_err(|error| error.applied(applied))?;
    }
    let document = Document::new("tdx.td.overlay", vec![item]);
    Ok(document.dry_run(args.change.dry_run).warnings(warnings).into())
}
