//! `tdx-gpu bind`: devices leave their drivers for VFIO, from where guests take them.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

use clap::Args;
use common::bound::{self, Record};
use common::cli::{Change, Context};
use common::document::{Action, Document, Item};
use common::host::Host;
use common::output::Outcome;
use common::pci::Bdf;
use common::units::Size;
use common::{Code, Result, interrupt};
use schemars::JsonSchema;
use serde::Serialize;
use tdx_iommu::check;
use tdx_iommu::inventory::Inventory;
use tdx_iommu::judgement::{Finding, Request};
use tdx_iommu::request::{self, Named};
use tdx_iommu::role::Role;

use crate::binding;
use crate::boot;
use crate::driver::{Sysfs, Variants};
use crate::limit;
use crate::persist::{self, Persisted, Persistent};
use crate::plan::{self, Plan, Terms};

/// Arguments of `bind`.
#[derive(Debug, Args)]
pub struct BindArgs {
    /// Devices; - for items with a bdf on standard input
    #[arg(value_name = "BDF", required_unless_present = "persisted")]
    devices: Vec<Named>,
    /// Take the other devices of the IOMMU groups too
    #[arg(long)]
    whole_group: bool,
    /// Do it in spite of this code (repeatable)
    #[arg(long, value_name = "CODE", value_parser = Code::to_force)]
    force: Vec<Code>,
    /// Memory of the guest, which bounds what VFIO may map [default: all of the host's]
    #[arg(long, value_name = "SIZE")]
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

/// A device that was to be given to VFIO.
#[derive(Debug, Serialize, JsonSchema)]
pub struct BindItem {
    /// Address.
    pub bdf: Bdf,
    /// Number of its IOMMU group.
    pub iommu_group: Option<u32>,
    /// What it is for.
    pub role: Role,
    /// The VFIO driver that has it now.
    pub driver: String,
    /// The driver that had it; unbind gives it back.
    pub previous_driver: Option<String>,
    /// Whether it is bound at every boot.
    pub persistent: bool,
    /// `bind`; for one that VFIO had already `persist` when it was recorded, else `none`.
    pub action: Action,
}

impl Item for BindItem {
    const COLUMNS: &'static [&'static str] = &["BDF", "ROLE", "GROUP", "DRIVER", "PREVIOUS"];

    fn key(&self) -> Cow<'_, str> {
        self.bdf.to_string().into()
    }

    fn compare(&self, other: &Self) -> Ordering {
        self.bdf.cmp(&other.bdf)
    }

    fn row(&self) -> Vec<String> {
        vec![
            self.bdf.to_string(),
            self.role.as_str().to_owned(),
            self.iommu_group.map(|group| group.to_string()).unwrap_or_default(),
            self.driver.clone(),
            self.previous_driver.clone().unwrap_or_default(),
        ]
    }

    fn action(&self) -> Option<Action> {
        Some(self.action)
    }
}

/// Devices with all that has to be known before they are bound.
#[derive(Debug)]
pub struct Candidates {
    /// The machine.
    pub inventory: Inventory,
    /// All there is to say of the devices.
    pub findings: Vec<Finding>,
    /// What it takes.
    pub plan: Plan,
}

impl Candidates {
    /// Looks at the machine and judges.
    ///
    /// Errors: `not_found`; `conflict` with the code of what stands in the way.
    pub fn find(host: &Host, named: &BTreeSet<Bdf>, terms: Terms<'_>) -> Result<Self> {
        let inventory = Inventory::read(host)?;
        let wanted = plan::requested(&inventory, named, terms.whole_group)?;
        let (findings, plan) = judge(host, &inventory, &Request::new(&inventory, wanted), terms)?;
        Ok(Self { inventory, findings, plan })
    }

    /// The devices in a document, as they will be.
    pub fn items(&self) -> Vec<BindItem> {
        items(&self.inventory, &self.plan)
    }

    /// What is to be recorded of the devices that they may be bound at every boot.
    fn records(
        &self,
        host: &Host,
        args: &BindArgs,
        persistent: &Persistent,
    ) -> Result<Vec<Persisted>> {
        let mut records = Vec::new();
        for step in &self.plan.steps {
            let Record { bdf, identity, driver, .. } = step.record.clone();
            // One that VFIO has already was taken from its driver before.
            let taken = bound::of(host, bdf)?.and_then(|found| found.record.driver);
            let known = persistent.of(bdf).find_map(|found| found.record.driver.clone());
            records.push(Persisted {
                bdf,
                path: self.inventory.devices[&bdf].path.as_ref().map(ToString::to_string),
                identity,
                driver: driver.filter(|_| !step.done).or(taken).or(known),
                force: args.force.clone(),
                memory_bytes: args.memory.map(|size| size.0),
                iommufd: args.iommufd,
            });
        }
        Ok(records)
    }
}

/// Plans to bind what is asked for, judged as the machine is now.
///
/// Errors: `conflict` with the code of what stands in the way.
pub(crate) fn judge(
    host: &Host,
    inventory: &Inventory,
    request: &Request<'_>,
    terms: Terms<'_>,
) -> Result<(Vec<Finding>, Plan)> {
    let (findings, mut warnings) = check::findings(host, inventory, request)?;
    let mut records = BTreeMap::new();
    for &bdf in request.devices() {
        records.extend(bound::of(host, bdf)?.map(|found| (bdf, found)));
    }
    let variants = Variants::read(host);
    let driver = |bdf| variants.driver(Sysfs::new(host, bdf));
    let mut plan = Plan::new(inventory, request, &findings, terms, &records, driver)?;
    plan.warnings.append(&mut warnings);
    Ok((findings, plan))
}

/// The devices of a plan in a document, as they will be.
pub(crate) fn items(inventory: &Inventory, plan: &Plan) -> Vec<BindItem> {
    let item = |step: &plan::Step| {
        let record = &step.record;
        let device = &inventory.devices[&record.bdf];
        let driver = device.driver.clone().filter(|_| step.done);
        BindItem {
            bdf: record.bdf,
            iommu_group: device.group,
            role: device.role,
            driver: driver.unwrap_or_else(|| record.bound_to.clone()),
            previous_driver: record.driver.clone().filter(|_| !step.done),
            persistent: false,
            action: if step.done { Action::NONE } else { Action("bind") },
        }
    };
    plan.steps.iter().map(item).collect()
}

/// The limit on mappings that a guest needs: of this much memory, or of all that the host has.
///
/// Errors: those of [`limit::host_memory`].
pub(crate) fn mappings(host: &Host, memory: Option<Size>) -> Result<u64> {
    Ok(limit::needed(memory.map_or_else(|| limit::host_memory(host), Ok)?))
}

/// Binds the devices, and the other functions of their slots.
pub fn run(context: &Context, args: BindArgs) -> Result<Outcome> {
    let host = &context.host;
    if args.persisted {
        return boot::run(host, args.change);
    }
    let (named, mut warnings) = request::resolve(&args.devices)?;
    if !args.force.is_empty() {
        let codes: Vec<&str> = args.force.iter().map(|code| code.as_str()).collect();
        context.confirm(args.change, &format!("bind in spite of {}?", codes.join(", ")))?;
    }
    interrupt::guard();
    let terms = Terms { whole_group: args.whole_group, force: &args.force, domain: None };
    let candidates = Candidates::find(host, &named, terms)?;
    warnings.extend(candidates.plan.warnings.iter().cloned());
    let persistent = Persistent::read(host, &candidates.inventory)?;
    warnings.extend(persistent.damaged.iter().map(ToString::to_string));
    let records = match args.persist {
        true => candidates.records(host, &args, &persistent)?,
        false => Vec::new(),
    };
    let mut items = candidates.items();
    for item in &mut items {
        item.persistent = args.persist || persistent.has(item.bdf);
        let mut records = records.iter().filter(|record| record.bdf == item.bdf);
        let is_new = records.any(|record| !persistent.says(record));
        if item.action == Action::NONE && is_new {
            item.action = Action("persist");
        }
    }
    let limit = (!args.iommufd).then(|| mappings(host, args.memory)).transpose()?;
    if !args.change.dry_run {
        if items.iter().any(|item| item.action != Action::NONE) {
            binding::as_root()?;
        }
        let Candidates { inventory, plan, .. } = candidates;
        let bound = plan.apply(host, limit)?;
        let kept = match records.as_slice() {
            [] => Ok(()),
            records => persist::keep(host, &inventory, records),
        };
        match kept {
            Ok(()) => bound.commit()?,
            Err(error) => return Err(bound.undo_after(error)),
        }
    }
    let document = Document::new("tdx.gpu.bind", items);
    Ok(document.dry_run(args.change.dry_run).warnings(warnings).into())
}
