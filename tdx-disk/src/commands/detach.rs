//! `tdx-disk detach`: detaches a disk from a guest, and waits until the guest has released it.

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

const EXAMPLES: &str = "Examples:
  tdx-disk detach vm vdb
  tdx-disk detach vm /dev/sdb --timeout 120";

/// Arguments of `detach`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct DetachArgs {
    /// Name of the domain
    #[arg(value_name = "VM")]
    domain: String,
    /// Disk, by any path or name below /dev, or by its guest target such as vdb
    #[arg(value_name = "DEV|TARGET")]
    device: String,
    /// Maximum time to wait for the guest to release the disk, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = seconds())]
    timeout: u64,
    #[command(flatten)]
    change: Change,
}

/// A disk in a document of `tdx-disk detach`.
#[derive(Debug, Serialize, JsonSchema)]
pub struct DetachItem {
    /// The name of the domain.
    pub domain: String,
    /// The device node of the host, as the kernel names it. For an absent device, the name in the command.
    pub device: String,
    /// The path in the domain's definition; null when the domain does not have the disk.
    pub source: Option<String>,
    /// The guest target; null when the domain does not have the disk.
    pub target: Option<String>,
    /// Whether the running guest had the disk.
    pub live: bool,
    /// Whether the persistent definition of the domain had the disk.
    pub config: bool,
    /// `detach`, or `none` when the domain did not have the disk.
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

/// Removes the disk from the persistent definition and from the running guest.
///
/// Errors: `conflict` with code `STILL_ATTACHED` when the guest has not released the disk in time, or with
/// `GUEST_REFUSED`; `not_found` for a domain that does not exist.
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
