//! `tdx-gpu bind`: binds devices to VFIO, so that they can be given to guests.

use clap::Args;
use common::cli::{Change, Context, interrupt, is_root};
use common::device_state::bound_devices::Record;
use common::document::output::Outcome;
use common::document::{Action, Document};
use common::units::{self, Size};
use common::{Code, Result};
use tdx_iommu::inventory::named_devices;
use tdx_iommu::inventory::named_devices::DeviceArg;

use crate::boot;
use crate::boot::BoundAtBoot;
use crate::boot::persist;
use crate::boot::persist::{BootRecord, BootRecords};
use crate::vfio::candidates::{Candidates, Locks};
use crate::vfio::plan::BindOptions;
use crate::vfio::{binding, candidates};

const EXAMPLES: &str = "Examples:
  tdx-gpu bind 17:00.0 --dry-run
  tdx-gpu bind 17:00.0 --memory 64G
  tdx-gpu bind 17:00.0 --persist
  tdx-iommu scan --vendor 10de --class 03 | tdx-gpu bind -";

/// Arguments of `bind`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct BindArgs {
    /// PCI addresses of the devices; - reads the JSON output of tdx-gpu list or tdx-iommu scan from
    /// standard input
    #[arg(value_name = "BDF", required_unless_present = "persisted")]
    devices: Vec<DeviceArg>,
    /// Also bind the other devices of the IOMMU groups
    #[arg(long)]
    whole_group: bool,
    /// Bind the devices despite the blocker with this code, such as OPEN_FDS (repeatable); needs confirmation
    #[arg(long, value_name = "CODE", value_parser = Code::to_force)]
    force: Vec<Code>,
    /// Memory size of the guest, from which tdx-gpu computes VFIO's limit on DMA mappings [default: the
    /// memory size of the host]
    #[arg(long, value_name = "SIZE", value_parser = units::size_in(units::MEMORY))]
    memory: Option<Size>,
    /// Do not change VFIO's limit on DMA mappings: guests with iommufd have no such limit
    #[arg(long, conflicts_with = "memory")]
    iommufd: bool,
    /// Also bind these devices at every boot, unless another device has taken their place
    #[arg(long)]
    persist: bool,
    /// Bind the devices that --persist recorded, as the systemd unit does at boot
    #[arg(long, conflicts_with_all = ["devices", "whole_group", "force", "memory", "iommufd", "persist"])]
    persisted: bool,
    #[command(flatten)]
    change: Change,
}

/// Binds the devices, and the other functions of their slots.
pub fn run(context: &Context, args: BindArgs) -> Result<Outcome> {
    let host = &context.host;
    if args.persisted {
        let BoundAtBoot { items, warnings } = boot::bind_recorded(host, args.change.dry_run)?;
        let document = Document::new("tdx.gpu.bind", items);
        return Ok(document.dry_run(args.change.dry_run).warnings(warnings).into());
    }
    let requested = named_devices::read(&args.devices)?;
    if !args.force.is_empty() {
        let codes: Vec<&str> = args.force.iter().map(|code| code.as_str()).collect();
        let question = format!("bind the devices despite {}?", codes.join(", "));
        context.confirm(args.change, &question)?;
    }
    interrupt::guard();
    let options = BindOptions { whole_group: args.whole_group, force: &args.force, domain: None };
    // Only root can change or lock devices.
    let (candidates, locks) = if args.change.dry_run || !is_root() {
        (Candidates::find(host, &requested, options)?, Locks::new())
    } else {
        Candidates::lock(host, &requested, options)?
    };
    let mut warnings = requested.warnings;
    warnings.extend(candidates.plan.warnings.iter().cloned());
    let boot_records = BootRecords::read(host, &candidates.inventory)?;
    warnings.extend(boot_records.damaged.iter().map(ToString::to_string));
    let records =
        if args.persist { records(&candidates, &args, &boot_records) } else { Vec::new() };
    let mut items = candidates.items();
    for item in &mut items {
        item.persistent = args.persist || boot_records.has(item.bdf);
        let mut records = records.iter().filter(|record| record.bdf == item.bdf);
        let is_new = records.any(|record| !boot_records.matches(record));
        if item.action == Action::None && is_new {
            item.action = Action::Persist;
        }
    }
    let limit =
        (!args.iommufd).then(|| candidates::needed_mappings(host, args.memory)).transpose()?;
    if !args.change.dry_run {
        if items.iter().any(|item| item.action != Action::None) {
            binding::expect_root()?;
        }
        let Candidates { inventory, plan, .. } = candidates;
        let bound = plan.apply(host, limit, locks)?;
        let kept = match records.as_slice() {
            [] => Ok(()),
            records => persist::store(host, &inventory, records),
        };
        match kept {
            Ok(()) => bound.commit()?,
            Err(error) => return Err(bound.undo_after(error)),
        }
    }
    let document = Document::new("tdx.gpu.bind", items);
    Ok(document.dry_run(args.change.dry_run).warnings(warnings).into())
}

/// The records with which the devices are bound at every boot.
fn records(
    candidates: &Candidates,
    args: &BindArgs,
    boot_records: &BootRecords,
) -> Vec<BootRecord> {
    let mut records = Vec::new();
    for step in &candidates.plan.steps {
        let Record { bdf, mut identity, driver, .. } = step.record.clone();
        // The former driver of a device that is already bound to VFIO is in its record.
        let taken = candidates.records.get(&bdf).map(|stored| &stored.record);
        let taken = taken.filter(|taken| !taken.identity.contradicts(&identity));
        let known = boot_records.records_of(bdf).map(|found| &found.record);
        let known: Vec<&BootRecord> =
            known.filter(|known| !known.identity.contradicts(&identity)).collect();
        // A device in a power-saving state may not show its serial number now.
        let serials = known.iter().map(|known| &known.identity).chain(taken.map(|t| &t.identity));
        identity.serial =
            identity.serial.or_else(|| serials.filter_map(|known| known.serial.clone()).next());
        let former = driver.filter(|_| !step.already_bound);
        let former = former.or_else(|| taken.and_then(|taken| taken.driver.clone()));
        let former = former.or_else(|| known.iter().find_map(|known| known.driver.clone()));
        records.push(BootRecord {
            bdf,
            path: candidates.inventory.devices[&bdf].path.as_ref().map(ToString::to_string),
            identity,
            driver: former,
            force: args.force.clone(),
            memory_bytes: args.memory.map(|size| size.0),
            iommufd: args.iommufd,
        });
    }
    records
}
