//! What `tdx-gpu bind --persisted` does at boot: recorded devices are bound as they were before.
//!
//! Each is found by what it is and judged as in an ordinary bind. Those that go together, by slot or by
//! group, do so or not at all; what became of one is no matter to the others.

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

use crate::boot::persist::{Found, Persistent};
use crate::vfio::candidates::{BindItem, Locks};
use crate::vfio::plan::{Plan, Terms};
use crate::vfio::{binding, candidates};

/// How many parties of devices are bound at once.
const AT_ONCE: usize = 64;

/// Devices of which none can go without the others, and their records.
#[derive(Debug)]
struct Party<'f> {
    reach: BTreeSet<Bdf>,
    members: Vec<(Bdf, &'f Found)>,
}

/// The devices that were bound, and what the user should know.
#[derive(Debug)]
pub struct BoundAtBoot {
    /// The devices in a document.
    pub items: Vec<BindItem>,
    /// A sentence each.
    pub warnings: Vec<String>,
}

/// Binds the recorded devices, or plans it when `dry_run` is set.
///
/// Errors: that of the first device that could not be bound, with all others that could not be as causes.
pub fn bind_recorded(host: &Host, dry_run: bool) -> Result<BoundAtBoot> {
    interrupt::guard();
    let mut seen = Inventory::read(host)?;
    let asleep: Vec<Bdf> = seen.devices.values().filter(|d| d.asleep).map(|d| d.bdf).collect();
    seen.wake(host, asleep.iter().copied().filter(|_| !dry_run));
    let persistent = Persistent::read(host, &seen)?;
    let mut failures: Vec<Error> = Vec::new();
    let mut there = Vec::new();
    for found in &persistent.found {
        match found.record.find(&seen) {
            Ok(bdf) => there.push((bdf, found)),
            Err(error) => failures.push(error),
        }
    }
    failures.extend(persistent.damaged);
    if !dry_run && !there.is_empty() {
        binding::expect_root()?;
    }
    let mut locked = Vec::new();
    for party in parties(&seen, &there) {
        match party.lock(host, &seen, dry_run) {
            Ok(locks) => locked.push((party, locks)),
            Err(error) => failures.push(error),
        }
    }
    let mut inventory = Inventory::read(host)?;
    inventory.wake(host, asleep.into_iter().filter(|_| !dry_run));
    let mut plans = Vec::new();
    for (party, locks) in locked {
        match party.plan(host, &inventory, &locks, dry_run) {
            Ok(plan) => plans.push((plan, locks)),
            Err(error) => failures.push(error),
        }
    }
    let limit = limit(host, &there)?;
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
            Ok((mut its, mut said)) => {
                items.append(&mut its);
                warnings.append(&mut said);
            }
            Err(error) => failures.push(error),
        }
    }
    if failures.is_empty() {
        return Ok(BoundAtBoot { items, warnings });
    }
    Err(all_of(failures).applied(items.iter().filter_map(done)))
}

fn done(item: &BindItem) -> Option<String> {
    (item.action != Action::None).then(|| format!("bound {}", item.bdf))
}

/// The first failure, to which the others are causes.
fn all_of(failures: Vec<Error>) -> Error {
    let mut failures = failures.into_iter();
    let first = failures.next().unwrap_or_else(|| Error::failed("nothing was bound"));
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
    match causes.is_empty() {
        true => error,
        false => error.because(causes.join("; ")),
    }
}

/// Sorts devices into parties: by slot and IOMMU group, bridges aside.
fn parties<'f>(inventory: &Inventory, there: &[(Bdf, &'f Found)]) -> Vec<Party<'f>> {
    let mut parties: Vec<Party<'f>> = Vec::new();
    for &(bdf, found) in there {
        let slot = inventory.slot(bdf).map(|device| device.bdf);
        let group = inventory.devices.get(&bdf).and_then(|device| inventory.group(device));
        let group = group.into_iter().flat_map(|group| group.members.iter().copied());
        let is_endpoint = |bdf: &Bdf| inventory.devices.get(bdf).is_some_and(|d| !d.is_bridge);
        let reach = slot.chain(group.filter(is_endpoint)).collect();
        let mut party = Party { reach, members: vec![(bdf, found)] };
        let touches = |other: &mut Party<'f>| !other.reach.is_disjoint(&party.reach);
        for other in parties.extract_if(.., touches).collect::<Vec<_>>() {
            party.reach.extend(other.reach);
            party.members.extend(other.members);
        }
        parties.push(party);
    }
    parties
}

impl Party<'_> {
    fn recorded(&self) -> BTreeSet<Bdf> {
        self.members.iter().map(|(bdf, _)| *bdf).collect()
    }

    /// Locks all of it.
    ///
    /// Errors: `conflict` with code `RESERVED` while another command works on one of the devices.
    fn lock(&self, host: &Host, inventory: &Inventory, dry_run: bool) -> Result<Locks> {
        match dry_run {
            true => Ok(Locks::new()),
            false => candidates::lock(host, Request::new(inventory, self.recorded()).devices()),
        }
    }

    /// Plans to bind all of it, as it is under its locks.
    ///
    /// Errors: `conflict` with the code of what stands in the way, `IDENTITY_CHANGED` for a device that is
    /// another one by now, and for a function that was not in the slot when the rest of it was recorded.
    fn plan(
        &self,
        host: &Host,
        inventory: &Inventory,
        locks: &Locks,
        dry_run: bool,
    ) -> Result<Plan> {
        let recorded = self.recorded();
        for (bdf, found) in &self.members {
            if found.record.find(inventory)? != *bdf {
                let message = format!("{bdf} is not where it was when it was locked");
                return Err(Error::conflict(message).code(Code::IdentityChanged));
            }
        }
        let request = Request::new(inventory, recorded.iter().copied());
        if let Some(new) = request.devices().iter().find(|bdf| !recorded.contains(bdf)) {
            let message =
                format!("{new} goes along with what is bound at every boot, and is new there");
            return Err(Error::conflict(message)
                .code(Code::IdentityChanged)
                .hint(format!("tdx-gpu bind {new} --persist records it, too")));
        }
        let force: Vec<Code> =
            self.members.iter().flat_map(|(_, found)| found.record.force.clone()).collect();
        let terms = Terms { force: &force, ..Terms::default() };
        let records = match dry_run {
            true => candidates::glimpse(host, request.devices())?,
            false => candidates::records(locks),
        };
        let (_, mut plan) = candidates::judge(host, inventory, &request, terms, &records)?;
        for step in plan.steps.iter_mut().filter(|step| !step.done) {
            let Record { bdf, driver, .. } = &mut step.record;
            let member = self.members.iter().find(|(member, _)| member == bdf);
            // Before its driver has come, nobody has it.
            *driver = driver.take().or_else(|| member?.1.record.driver.clone());
        }
        Ok(plan)
    }
}

/// The limit on mappings that the guests of these devices need.
fn limit(host: &Host, there: &[(Bdf, &Found)]) -> Result<Option<u64>> {
    let mut highest = None;
    for (_, found) in there.iter().filter(|(_, found)| !found.record.iommufd) {
        let memory = found.record.memory_bytes.map(Size);
        highest = highest.max(Some(candidates::mappings(host, memory)?));
    }
    Ok(highest)
}
