//! `tdx-disk attach`: attaches a host disk to a guest.

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

const EXAMPLES: &str = "Examples:
  tdx-disk attach vm /dev/sdb --dry-run
  tdx-disk attach vm /dev/disk/by-id/wwn-0x5000c500a0b1c2d3 --persistent
  tdx-disk list --json | jq '.items[] | select(.available and .model==\"X\")' | tdx-disk attach vm -";

/// Arguments of `attach`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct AttachArgs {
    /// Name of the domain
    #[arg(value_name = "VM")]
    domain: String,
    /// Disk, by any path or name below /dev; - reads the JSON output of tdx-disk list from standard input
    #[arg(value_name = "DEV")]
    device: String,
    /// Serial number that the guest sees [default: the serial number of the host disk]
    #[arg(long)]
    serial: Option<String>,
    /// Guest target, such as vdb [default: the first free target, starting with vdb (virtio) or sdb
    /// (scsi)]
    #[arg(long, value_name = "NAME")]
    target: Option<String>,
    /// Bus of the guest disk
    #[arg(long, value_enum, default_value = "virtio")]
    bus: Bus,
    /// Attach the disk read-only
    #[arg(long)]
    readonly: bool,
    /// Also add the disk to the persistent definition. For a domain that is shut off, change only the persistent
    /// definition
    #[arg(long)]
    persistent: bool,
    /// Attach the disk despite the blocker with this code, as tdx-disk check prints it (repeatable); needs confirmation
    #[arg(long, value_name = "CODE", value_parser = Code::to_force)]
    force: Vec<Code>,
    // The options of every verb that changes something.
    #[command(flatten)]
    change: Change,
}

/// Attaches each disk. A failure does not stop the others.
///
/// Errors: `conflict` with the code of the blocker; `not_found` for a domain or a device that does not exist;
/// `unsupported` for a libvirt on another machine; `permission` without root.
pub fn run(
    context: &Context,
    open: impl Fn() -> Result<Libvirt>,
    args: AttachArgs,
) -> Result<Outcome> {
    let names = named_device::read(std::slice::from_ref(&args.device))?;
    if names.len() > 1 && (args.serial.is_some() || args.target.is_some()) {
        return Err(Error::usage(format!(
            "--serial and --target need exactly one disk, but standard input has {}",
            names.len()
        )));
    }
    if let Some(serial) = &args.serial {
        element::check_serial(serial, args.bus)?;
    }
    if let Some(target) = &args.target {
        args.bus.check_target(target)?;
    }
    if !args.force.is_empty() {
        let codes: Vec<&str> = args.force.iter().map(|code| code.as_str()).collect();
        let question = format!("attach the disk despite {}?", codes.join(", "));
        context.confirm(args.change, &question)?;
    }
    if !context.host.is_this_machine() {
        return Err(Error::usage("tdx-disk attach cannot be used with --sysroot"));
    }
    let blocks = BlockDevices::read(&context.host)?;
    for named in &names {
        named_device::find(&context.host, &blocks, &named.name)?;
    }
    if !common::cli::is_root() && !args.change.dry_run {
        return Err(Error::permission("attaching disks needs root")
            .hint("run this command with sudo, or with --dry-run to see what would be done"));
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
