//! `tdx-td new`: from a disk image to a running domain.

use std::borrow::Cow;

use clap::Args;
use common::cli::{Change, Context};
use common::config::Config;
use common::document::{Action, Document, Item};
use common::libvirt::Libvirt;
use common::output::Outcome;
use common::{Result, interrupt};
use schemars::JsonSchema;
use serde::Serialize;

use crate::creation::Plan;
use crate::domain::DomainItem;
use crate::image::{ImageArgs, ImageRequest};
use crate::settings::GuestArgs;

/// Arguments of `new`.
#[derive(Debug, Args)]
pub struct NewArgs {
    #[command(flatten)]
    image: ImageArgs,
    #[command(flatten)]
    guest: GuestArgs,
    #[command(flatten)]
    change: Change,
}

/// A domain and what was done to have it running.
#[derive(Debug, Serialize, JsonSchema)]
pub struct NewItem {
    #[serde(flatten)]
    domain: DomainItem,
    /// `create`; for a name that was there as asked for, `start`, `resume`, `wake` or `none`.
    action: Action,
}

impl Item for NewItem {
    const COLUMNS: &'static [&'static str] = DomainItem::COLUMNS;

    fn key(&self) -> Cow<'_, str> {
        self.domain.key()
    }

    fn row(&self) -> Vec<String> {
        self.domain.row()
    }

    fn action(&self) -> Option<Action> {
        Some(self.action)
    }
}

/// Creates and starts a domain, or finds it there as asked for.
pub fn run(
    context: &Context,
    connect: impl FnOnce() -> Result<Libvirt>,
    config: &Config,
    args: NewArgs,
) -> Result<Outcome> {
    let request = ImageRequest::read(&args.image)?;
    interrupt::guard();
    let libvirt = connect()?;
    let mut plan = Plan::new(context, &libvirt, config, &request, &args.guest)?;
    let warnings = std::mem::take(&mut plan.warnings);
    let dry_run = args.change.dry_run;
    let (domain, action) = match dry_run {
        true => plan.imagined()?,
        false => plan.apply(context, config, &request)?,
    };
    let document = Document::new("tdx.td.new", vec![NewItem { domain, action }]);
    Ok(document.dry_run(dry_run).warnings(warnings).into())
}
