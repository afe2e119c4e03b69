//! `tdx-gpu bind --persisted`, which binds the recorded devices at boot.
//!
//! Each device is found by the properties in its record and checked as by `tdx-gpu bind`. The devices of one slot or
//! IOMMU group are bound together or not at all. A failure of one group does not stop the others.

pub mod persist;
pub mod unit;

use std::collections::BTreeSet;

use common::cli::interrupt;
use common::device_state::bound_devices::Record;
use common::document::Action;
use common::system::pci::Bdf;
use common::system::sysroot::Host;
use common::units::Size;
use common::{Code, Error, Result, parallel};
use tdx_iommu::inventory::Inventory;
use tdx_iommu::judge::Request;

use crate::boot::persist::{BootRecord, BootRecords};
use crate::vfio::candidates::{BindItem, Locks};
use crate::vfio::plan::{BindOptions, BindPlan};
use crate::vfio::{binding, candidates};

/// How many groups of devices are bound in parallel.
const AT_ONCE: usize = 64;

/// Devices that are bound together or not at all, and their records.
#[derive(Debug)]
struct BindGroup<'f> {
    /// All devices of the slots and IOMMU groups of the members.
    reachable: BTreeSet<Bdf>,
    members: Vec<Member<'f>>,
}

/// A device that is bound at every boot, and its record.
#[derive(Debug, Clone, Copy)]
struct Member<'f> {
    bdf: Bdf,
    record: &'f BootRecord,
}

/// The devices that were bound, and warnings for the user.
#[derive(Debug)]
pub struct BoundAtBoot {
    /// The devices as items of a document.
    pub items: Vec<BindItem>,
    /// Warnings for the user.
    pub warnings: Vec<String>,
}

/// Binds the recorded devices, or only makes the plan if `dry_run` is set.
///
/// Errors: that of the first device that could not be bound, with the errors of the others as causes.
pub fn bind_recorded(host: &Host, dry_run: bool) -> Result<BoundAtBoot> {
    interrupt::guard();
    let mut seen = Inventory::read(host)?;
    let asleep: Vec<Bdf> = seen.devices.values().filter(|d| d.asleep).map(|d| d.bdf).collect();
    seen.wake(host, asleep.iter().copied().filter(|_| !dry_run));
    let boot_records = BootRecords::read(host, &seen)?;
    let mut failures: Vec<Error> = Vec::new();
    let mut members = Vec::new();
    for located in &boot_records.records {
        match located.record.find(&seen) {
            Ok(bdf) => members.push(Member { bdf, record: &located.record }),
            Err(error) => failures.push(error),
        }
    }
    failures.extend(boot_records.damaged);
    if !dry_run && !members.is_empty() {
        binding::expect_root()?;
    }
    let mut locked = Vec::new();
    for bind_group in bind_groups(&seen, &members) {
        match bind_group.lock(host, &seen, dry_run) {
            Ok(locks) => locked.push((bind_group, locks)),
            Err(error) => failures.push(error),
        }
    }
    let mut inventory = Inventory::read(host)?;
    inventory.wake(host, asleep.into_iter().filter(|_| !dry_run));
    let mut plans = Vec::new();
    for (bind_group, locks) in locked {
        match bind_group.plan(host, &inventory, &locks, dry_run) {
            Ok(plan) => plans.push((plan, locks)),
            Err(error) => failures.push(error),
        }
    }
    let limit = highest_limit(host, &members)?;
    let mut warnings = Vec::new();
    let mut items = Vec::new();
    let bound = parallel::map(plans, AT_ONCE, |(mut plan, locks)| {
        let mut items = candidates::items(&inventory, &plan);
        items.iter_mut().for_each(|item| item.persistent = true);
        let warnings = std::mem::take(&mut plan.warnings);
        if !dry_run {
            plan.apply(host, limit, locks)?.commit()?;
        }
        Ok((items, warnings))
    });
    for result in bound {
        match result {
            Ok((mut bound_items, mut bound_warnings)) => {
                items.append(&mut bound_items);
                warnings.append(&mut bound_warnings);
            }
            Err(error) => failures.push(error),
        }
    }
    if failures.is_empty() {
        return Ok(BoundAtBoot { items, warnings });
    }
    Err(combine_errors(failures).applied(items.iter().filter_map(applied_text)))
}

fn applied_text(item: &BindItem) -> Option<String> {
    (item.action != Action::None).then(|| format!("bound {}", item.bdf))
}

/// The first failure, with the others as its causes.
fn combine_errors(failures: Vec<Error>) -> Error {
    let mut failures = failures.into_iter();
    let first = failures.next().unwrap_or_else(|| {
        Error::failed("none of the devices that are recorded to be bound at every boot was bound")
    });
    let body = first.to_document().error;
    let others = failures.map(|other| {
        let code = other.to_document().error.code;
        let code = code.map(|code| format!(" ({})", code.as_str())).unwrap_or_default();
        [vec![format!("{other}{code}")], other.causes()].concat().join("; ")
    });
    let causes: Vec<String> = body.causes.iter().cloned().chain(others).collect();
    let mut error = Error::new(first.kind(), body.message).left_behind(body.left_behind);
    if let Some(code) = body.code {
        error = error.code(code);
    }
    if let Some(hint) = body.hint {
        error = error.hint(hint);
    }
    if causes.is_empty() { error } else { error.because(causes.join("; ")) }
}

/// Sorts devices into groups that are bound together: by slot and IOMMU group, without bridges.
fn bind_groups<'f>(inventory: &Inventory, members: &[Member<'f>]) -> Vec<BindGroup<'f>> {
    let mut groups: Vec<BindGroup<'f>> = Vec::new();
    for &member in members {
        let bdf = member.bdf;
        let slot = inventory.slot(bdf).map(|device| device.bdf);
        let group = inventory.devices.get(&bdf).and_then(|device| inventory.group(device));
        let group = group.into_iter().flat_map(|group| group.members.iter().copied());
        let is_endpoint = |bdf: &Bdf| inventory.devices.get(bdf).is_some_and(|d| !d.is_bridge);
        let reachable = slot.chain(group.filter(is_endpoint)).collect();
        let mut bind_group = BindGroup { reachable, members: vec![member] };
        let touches =
            |other: &mut BindGroup<'f>| !other.reachable.is_disjoint(&bind_group.reachable);
        for other in groups.extract_if(.., touches).collect::<Vec<_>>() {
            bind_group.reachable.extend(other.reachable);
            bind_group.members.extend(other.members);
        }
        groups.push(bind_group);
    }
    groups
}

impl BindGroup<'_> {
    fn devices(&self) -> BTreeSet<Bdf> {
        self.members.iter().map(|member| member.bdf).collect()
    }

    /// Locks all devices of the group.
    ///
    /// Errors: `conflict` with code `RESERVED` while another command works on one of the devices.
    fn lock(&self, host: &Host, inventory: &Inventory, dry_run: bool) -> Result<Locks> {
        if dry_run {
            Ok(Locks::new())
        } else {
            candidates::lock_devices(host, Request::new(inventory, self.devices()).devices())
        }
    }

    /// Makes the plan to bind all devices of the group, which are locked.
    ///
    /// Errors: `conflict` with the code of the blocker, or with `IDENTITY_CHANGED` for a device that differs from its
    /// record, and for a new function in the slot of a recorded device.
    fn plan(
        &self,
        host: &Host,
        inventory: &Inventory,
        locks: &Locks,
        dry_run: bool,
    ) -> Result<BindPlan> {
        let recorded = self.devices();
        for Member { bdf, record } in &self.members {
            if record.find(inventory)? != *bdf {
                let message = format!(
                    "the device at {bdf} changed its PCI address while tdx-gpu locked the device"
                );
                return Err(Error::conflict(message).code(Code::IdentityChanged));
            }
        }
        let request = Request::new(inventory, recorded.iter().copied());
        if let Some(new) = request.devices().iter().find(|bdf| !recorded.contains(bdf)) {
            let message = format!(
                "device {new} is not recorded to be bound at every boot, although a recorded device is in the same slot"
            );
            return Err(Error::conflict(message)
                .code(Code::IdentityChanged)
                .hint(format!("to record the device, run: tdx-gpu bind {new} --persist")));
        }
        let force: Vec<Code> =
            self.members.iter().flat_map(|member| member.record.force.clone()).collect();
        let options = BindOptions { force: &force, ..BindOptions::default() };
        let records = if dry_run {
            candidates::read_records(host, request.devices())?
        } else {
            candidates::records(locks)
        };
        let (_, mut plan) =
            candidates::judge_and_plan(host, inventory, &request, options, &records)?;
        for step in plan.steps.iter_mut().filter(|step| !step.already_bound) {
            let Record { bdf, driver, .. } = &mut step.record;
            let member = self.members.iter().find(|member| member.bdf == *bdf);
            // At boot, the device may not have been bound to its driver yet.
            *driver = driver.take().or_else(|| member?.record.driver.clone());
        }
        Ok(plan)
    }
}

/// The limit on DMA mappings that the guests of these devices need.
fn highest_limit(host: &Host, members: &[Member<'_>]) -> Result<Option<u64>> {
    let mut highest = None;
    for member in members.iter().filter(|member| !member.record.iommufd) {
        let memory = member.record.memory_bytes.map(Size);
        highest = highest.max(Some(candidates::needed_mappings(host, memory)?));
    }
    Ok(highest)
}
