//! `tdx-disk attach`: a disk goes to a guest, hot.

use std::borrow::Cow;

use clap::Args;
use common::cli::{Change, Context, interrupt};
use common::document::output::Outcome;
use common::document::{Action, Document, Item};
use common::libvirt::Libvirt;
use common::units::Size;
use common::{Code, Error, Result, parallel};
use schemars::JsonSchema;
use serde::Serialize;

use crate::attach::domain_handle::Subject;
use crate::attach::target::Bus;
use crate::attach::{Attachment, element};
use crate::block::blocks::Blocks;
use crate::commands::named;

/// Arguments of `attach`.
#[derive(Debug, Args)]
pub struct AttachArgs {
    /// The domain
    #[arg(value_name = "VM")]
    pub domain: String,
    /// A disk by whatever name; - for items with a device on standard input
    #[arg(value_name = "DEV")]
    pub device: String,
    /// The serial number the guest sees [default: the disk's own]
    #[arg(long)]
    pub serial: Option<String>,
    /// The guest target [default: the next free one from vdb, or sdb, on]
    #[arg(long, value_name = "NAME")]
    pub target: Option<String>,
    /// How the guest reaches it
    #[arg(long, value_enum, default_value = "virtio")]
    pub bus: Bus,
    /// The guest may only read
    #[arg(long)]
    pub readonly: bool,
    /// At the guest's next start, too
    #[arg(long)]
    pub persistent: bool,
    /// Do it in spite of this code (repeatable)
    #[arg(long, value_name = "CODE", value_parser = Code::to_force)]
    pub force: Vec<Code>,
    /// Whether to ask, and whether to do anything
    #[command(flatten)]
    pub change: Change,
}

/// A disk that was to go to a guest.
#[derive(Debug, Serialize, JsonSchema)]
pub struct AttachItem {
    /// The domain.
    pub domain: String,
    /// The host's device, as the kernel names it.
    pub device: String,
    /// Its number, `major:minor`.
    pub number: String,
    /// Its world-wide name.
    pub wwn: Option<String>,
    /// The path in the definition.
    pub source: String,
    /// Guest target.
    pub target: String,
    /// `virtio` or `scsi`.
    pub bus: String,
    /// The serial number that the guest sees.
    pub serial: Option<String>,
    /// The name by which udev in the guest finds it; null without a serial number.
    pub guest_device: Option<String>,
    /// Size, bytes.
    pub size_bytes: u64,
    /// Whether the guest may only read.
    pub readonly: bool,
    /// Whether the running guest has it.
    pub live: bool,
    /// Whether it is in the definition that stays.
    pub config: bool,
    /// `attach`, or `none` when the guest has it already.
    pub action: Action,
}

impl Item for AttachItem {
    const COLUMNS: &'static [&'static str] =
        &["DOMAIN", "DEVICE", "TARGET", "SERIAL", "SIZE", "GUEST DEVICE", "ACTION"];
    const DROPPED: &'static [&'static str] = &["SERIAL", "SIZE"];

    fn key(&self) -> Cow<'_, str> {
        self.device.as_str().into()
    }

    fn row(&self) -> Vec<String> {
        vec![
            self.domain.clone(),
            self.device.clone(),
            self.target.clone(),
            self.serial.clone().unwrap_or_default(),
            Size(self.size_bytes).to_string(),
            self.guest_device.clone().unwrap_or_default(),
            self.action.to_string(),
        ]
    }

    fn action(&self) -> Option<Action> {
        Some(self.action)
    }
}

/// Attaches each disk; all are tried.
///
/// Errors: `conflict` with the code of what stands in the way; `not_found` for a domain or a device
/// that is not there; `unsupported` for a libvirt elsewhere; `permission` without root.
pub fn run(
    context: &Context,
    open: impl Fn() -> Result<Libvirt>,
    args: AttachArgs,
) -> Result<Outcome> {
    let names = named::read(std::slice::from_ref(&args.device))?;
    if names.len() > 1 && (args.serial.is_some() || args.target.is_some()) {
        return Err(Error::usage("--serial and --target are for one disk"));
    }
    if let Some(serial) = &args.serial {
        element::expect_serial(serial, args.bus)?;
    }
    if let Some(target) = &args.target {
        args.bus.expect(target)?;
    }
    if !args.force.is_empty() {
        let codes: Vec<&str> = args.force.iter().map(|code| code.as_str()).collect();
        context.confirm(args.change, &format!("attach in spite of {}?", codes.join(", ")))?;
    }
    if !context.host.is_this_machine() {
        return Err(Error::usage("disks are attached on this machine: --sysroot is another"));
    }
    let blocks = Blocks::read(&context.host)?;
    for named in &names {
        named::find(&context.host, &blocks, &named.name)?;
    }
    if !common::cli::is_root() && !args.change.dry_run {
        return Err(Error::permission("judging and attaching disks takes root")
            .hint("run it with sudo, or with --dry-run to see the plan"));
    }
    let mut subject = Subject::find(&open, &args.domain)?;
    interrupt::guard();
    let mut warnings = Vec::new();
    let done = names.iter().map(|named| {
        let attachment = Attachment { host: &context.host, args: &args, named };
        let (item, told) = attachment.run(&mut subject)?;
        warnings.extend(told);
        Ok(item)
    });
    let done: Vec<Result<AttachItem>> = done.collect();
    let items = parallel::settle(done, |item: &AttachItem| {
        let changed = item.action != Action::None && !args.change.dry_run;
        changed.then(|| format!("attached {} to '{}' as {}", item.device, item.domain, item.target))
    })?;
    let document = Document::new("tdx.disk.attach", items).dry_run(args.change.dry_run);
    Ok(document.warnings(warnings).into())
}
