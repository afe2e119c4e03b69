//! `tdx-gpu bind`: devices leave their drivers for VFIO, from where guests take them.

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

/// Arguments of `bind`.
#[derive(Debug, Args)]
pub struct BindArgs {
    /// Devices; - for items with a bdf on standard input
    #[arg(value_name = "BDF", required_unless_present = "persisted")]
    devices: Vec<DeviceArg>,
    /// Take the other devices of the IOMMU groups too
    #[arg(long)]
    whole_group: bool,
    /// Do it in spite of this code (repeatable)
    #[arg(long, value_name = "CODE", value_parser = Code::to_force)]
    force: Vec<Code>,
    /// Memory of the guest, which bounds what VFIO may map [default: all of the host's]
    #[arg(long, value_name = "SIZE", value_parser = units::size_in(units::MEMORY))]
    memory: Option<Size>,
    /// The guest gets the devices by iommufd, which has no such bound
    #[arg(long, conflicts_with = "memory")]
    iommufd: bool,
    /// At every boot from now on, too, as long as the devices are the same
    #[arg(long)]
    persist: bool,
    /// The devices that --persist recorded, as its systemd unit does at boot
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
        context.confirm(args.change, &format!("bind in spite of {}?", codes.join(", ")))?;
    }
    interrupt::guard();
    let options = BindOptions { whole_group: args.whole_group, force: &args.force, domain: None };
    // Without root nothing can be changed, and nothing be locked.
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

/// What is to be recorded of the devices that they may be bound at every boot.
fn records(
    candidates: &Candidates,
    args: &BindArgs,
    boot_records: &BootRecords,
) -> Vec<BootRecord> {
    let mut records = Vec::new();
    for step in &candidates.plan.steps {
        let Record { bdf, mut identity, driver, .. } = step.record.clone();
        // One that VFIO has already was taken from its driver before.
        let taken = candidates.records.get(&bdf).map(|stored| &stored.record);
        let taken = taken.filter(|taken| !taken.identity.contradicts(&identity));
        let known = boot_records.records_of(bdf).map(|found| &found.record);
        let known: Vec<&BootRecord> =
            known.filter(|known| !known.identity.contradicts(&identity)).collect();
        // A device that sleeps may not show its serial number now.
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
