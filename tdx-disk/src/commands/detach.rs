//! `tdx-disk detach`: a disk comes back from a guest, once the guest has let go of it.

use std::borrow::Cow;
use std::time::Duration;

use clap::Args;
use common::Result;
use common::cli::{Change, Context, interrupt, seconds};
use common::document::output::Outcome;
use common::document::{Action, Document, Item};
use common::libvirt::Libvirt;
use schemars::JsonSchema;
use serde::Serialize;

use crate::attach::detachment::Detachment;
use crate::attach::domain_handle::DomainHandle;
use crate::attach::guest_disk::GuestDisk;
use crate::attach::undefined_disk;
use crate::block::named_device;

/// Arguments of `detach`.
#[derive(Debug, Args)]
pub struct DetachArgs {
    /// The domain
    #[arg(value_name = "VM")]
    domain: String,
    /// A disk by whatever name, or the guest target
    #[arg(value_name = "DEV|TARGET")]
    device: String,
    /// How long to wait for the guest to let go
    #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = seconds())]
    timeout: u64,
    #[command(flatten)]
    change: Change,
}

/// A disk that was to come back.
#[derive(Debug, Serialize, JsonSchema)]
pub struct DetachItem {
    /// The domain.
    pub domain: String,
    /// The host's device as the kernel names it; what was asked for where there is none.
    pub device: String,
    /// The path in the definition; null when the domain has no such disk.
    pub source: Option<String>,
    /// Guest target; null when the domain has no such disk.
    pub target: Option<String>,
    /// Whether the running guest had it.
    pub live: bool,
    /// Whether it was in the definition that stays.
    pub config: bool,
    /// `detach`, or `none` when the domain has no such disk.
    pub action: Action,
}

impl Item for DetachItem {
    const COLUMNS: &'static [&'static str] = &["DOMAIN", "DEVICE", "TARGET", "ACTION"];

    fn key(&self) -> Cow<'_, str> {
        self.device.as_str().into()
    }

    fn row(&self) -> Vec<String> {
        vec![
            self.domain.clone(),
            self.device.clone(),
            self.target.clone().unwrap_or_default(),
            self.action.to_string(),
        ]
    }

    fn action(&self) -> Option<Action> {
        Some(self.action)
    }
}

/// Takes the disk from the definition that stays, and from the running guest.
///
/// Errors: `conflict` with code `STILL_ATTACHED` when the guest has not let go in time, or
/// `GUEST_REFUSED`; `not_found` for a domain that is not there.
pub fn run(
    context: &Context,
    open: impl Fn() -> Result<Libvirt>,
    args: DetachArgs,
) -> Result<Outcome> {
    let path = named_device::absolute_path(&args.device)?;
    let detach = Detachment { host: &context.host, word: &args.device, path };
    let mut handle = DomainHandle::find(&open, &args.domain)?;
    interrupt::guard();
    let (found, device) = detach.find(&handle)?;
    let dry_run = args.change.dry_run;
    if found.is_empty() {
        detach.expect_none(&handle)?;
        let mut warnings = vec![format!("domain '{}' has no disk {}", args.domain, args.device)];
        let asked = detach.requested_numbers(&device)?;
        let host = &context.host;
        warnings.extend(undefined_disk::expect_closed(host, &mut handle, asked.as_ref())?);
        let item = DetachItem {
            domain: args.domain,
            device,
            source: None,
            target: None,
            live: false,
            config: false,
            action: Action::None,
        };
        let document = Document::new("tdx.disk.detach", vec![item]).dry_run(dry_run);
        return Ok(document.warnings(warnings).into());
    }
    let mut warnings = Vec::new();
    if !dry_run {
        let timeout = Duration::from_secs(args.timeout);
        warnings = detach.carry_out(&mut handle, &found, timeout)?;
    }
    let item = |disk: GuestDisk| DetachItem {
        domain: args.domain.clone(),
        device: device.clone(),
        source: Some(disk.source),
        target: Some(disk.target),
        live: disk.live.is_some(),
        config: disk.config.is_some(),
        action: Action::Detach,
    };
    let items = found.into_iter().map(item).collect();
    Ok(Document::new("tdx.disk.detach", items).dry_run(dry_run).warnings(warnings).into())
}
