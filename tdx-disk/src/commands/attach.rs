//! `tdx-disk attach`: a disk goes to a guest, hot.

use clap::Args;
use common::cli::{Change, Context, interrupt};
use common::document::output::Outcome;
use common::document::{Action, Document};
use common::libvirt::Libvirt;
use common::{Code, Error, Result, parallel};

use crate::attach::domain_handle::DomainHandle;
use crate::attach::item::AttachItem;
use crate::attach::request::AttachRequest;
use crate::attach::target::Bus;
use crate::attach::{Attachment, element};
use crate::block::devices::BlockDevices;
use crate::block::named_device;

/// Arguments of `attach`.
#[derive(Debug, Args)]
pub struct AttachArgs {
    /// The domain
    #[arg(value_name = "VM")]
    domain: String,
    /// A disk by whatever name; - for items with a device on standard input
    #[arg(value_name = "DEV")]
    device: String,
    /// The serial number the guest sees [default: the disk's own]
    #[arg(long)]
    serial: Option<String>,
    /// The guest target [default: the next free one from vdb, or sdb, on]
    #[arg(long, value_name = "NAME")]
    target: Option<String>,
    /// How the guest reaches it
    #[arg(long, value_enum, default_value = "virtio")]
    bus: Bus,
    /// The guest may only read
    #[arg(long)]
    readonly: bool,
    /// At the guest's next start, too
    #[arg(long)]
    persistent: bool,
    /// Do it in spite of this code (repeatable)
    #[arg(long, value_name = "CODE", value_parser = Code::to_force)]
    force: Vec<Code>,
    /// Whether to ask, and whether to do anything
    #[command(flatten)]
    change: Change,
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
    let names = named_device::read(std::slice::from_ref(&args.device))?;
    if names.len() > 1 && (args.serial.is_some() || args.target.is_some()) {
        return Err(Error::usage("--serial and --target are for one disk"));
    }
    if let Some(serial) = &args.serial {
        element::check_serial(serial, args.bus)?;
    }
    if let Some(target) = &args.target {
        args.bus.check_target(target)?;
    }
    if !args.force.is_empty() {
        let codes: Vec<&str> = args.force.iter().map(|code| code.as_str()).collect();
        context.confirm(args.change, &format!("attach in spite of {}?", codes.join(", ")))?;
    }
    if !context.host.is_this_machine() {
        return Err(Error::usage("disks are attached on this machine: --sysroot is another"));
    }
    let blocks = BlockDevices::read(&context.host)?;
    for named in &names {
        named_device::find(&context.host, &blocks, &named.name)?;
    }
    if !common::cli::is_root() && !args.change.dry_run {
        return Err(Error::permission("judging and attaching disks takes root")
            .hint("run it with sudo, or with --dry-run to see the plan"));
    }
    let mut handle = DomainHandle::find(&open, &args.domain)?;
    interrupt::guard();
    let dry_run = args.change.dry_run;
    let request = AttachRequest {
        domain: args.domain,
        serial: args.serial,
        target: args.target,
        bus: args.bus,
        readonly: args.readonly,
        persistent: args.persistent,
        force: args.force,
        dry_run,
    };
    let mut warnings = Vec::new();
    let done = names.iter().map(|named| {
        let attachment = Attachment { host: &context.host, request: &request, named };
        let (item, disk_warnings) = attachment.run(&mut handle)?;
        warnings.extend(disk_warnings);
        Ok(item)
    });
    let done: Vec<Result<AttachItem>> = done.collect();
    let items = parallel::settle(done, |item: &AttachItem| {
        let changed = item.action != Action::None && !dry_run;
        changed.then(|| format!("attached {} to '{}' as {}", item.device, item.domain, item.target))
    })?;
    let document = Document::new("tdx.disk.attach", items).dry_run(dry_run);
    Ok(document.warnings(warnings).into())
}
