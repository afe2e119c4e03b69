//! `tdx-gpu bind`: devices leave their drivers for VFIO, from where guests take them.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

use clap::Args;
use common::bound;
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

use crate::driver::Sysfs;
use crate::limit;
use crate::plan::{self, Plan, Terms};

/// Arguments of `bind`.
#[derive(Debug, Args)]
pub struct BindArgs {
    /// Devices; - for items with a bdf on standard input
    #[arg(value_name = "BDF", required = true)]
    devices: Vec<Named>,
    /// Take the other devices of the IOMMU groups too
    #[arg(long)]
    whole_group: bool,
    /// Do it in spite of this code (repeatable)
    #[arg(long, value_name = "CODE", value_parser = code)]
    force: Vec<Code>,
    /// Memory of the guest, which bounds what VFIO may map [default: all of the host's]
    #[arg(long, value_name = "SIZE")]
    memory: Option<Size>,
    /// The guest gets the devices by iommufd, which has no such bound
    #[arg(long, conflicts_with = "memory")]
    iommufd: bool,
    #[command(flatten)]
    change: Change,
}

/// A code that can be forced.
fn code(text: &str) -> Result<Code, String> {
    let known = Code::ALL.iter().find(|code| code.as_str() == text);
    match known {
        None => Err("no such code: tdx-gpu check names them".to_owned()),
        Some(code) if code.level() == common::code::Level::Refuse => {
            Err("what this stands for cannot be forced".to_owned())
        }
        Some(code) => Ok(*code),
    }
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
    /// `bind`, or `none` for one that VFIO had already.
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
        let request = Request::new(&inventory, wanted);
        let (findings, mut warnings) = check::findings(host, &inventory, &request)?;
        let mut records = BTreeMap::new();
        for &bdf in request.devices() {
            records.extend(bound::of(host, bdf)?.map(|found| (bdf, found)));
        }
        let driver = |bdf| Sysfs::new(host, bdf).vfio_driver();
        let mut plan = Plan::new(&inventory, &request, &findings, terms, &records, driver)?;
        plan.warnings.append(&mut warnings);
        Ok(Self { inventory, findings, plan })
    }

    /// The devices in a document, as they will be.
    pub fn items(&self) -> Vec<BindItem> {
        let item = |step: &plan::Step| {
            let record = &step.record;
            let device = &self.inventory.devices[&record.bdf];
            let driver = device.driver.clone().filter(|_| step.done);
            BindItem {
                bdf: record.bdf,
                iommu_group: device.group,
                role: device.role,
                driver: driver.unwrap_or_else(|| record.bound_to.clone()),
                previous_driver: record.driver.clone().filter(|_| !step.done),
                action: if step.done { Action::NONE } else { Action("bind") },
            }
        };
        self.plan.steps.iter().map(item).collect()
    }
}

/// Binds the devices, and the other functions of their slots.
pub fn run(context: &Context, args: BindArgs) -> Result<Outcome> {
    let host = &context.host;
    let (named, mut warnings) = request::resolve(&args.devices)?;
    if !args.force.is_empty() {
        let codes: Vec<&str> = args.force.iter().map(|code| code.as_str()).collect();
        context.confirm(args.change, &format!("bind in spite of {}?", codes.join(", ")))?;
    }
    interrupt::guard();
    let terms = Terms { whole_group: args.whole_group, force: &args.force, domain: None };
    let candidates = Candidates::find(host, &named, terms)?;
    let items = candidates.items();
    warnings.extend(candidates.plan.warnings.iter().cloned());
    let limit = match (args.iommufd, args.memory) {
        (true, _) => None,
        (false, Some(memory)) => Some(limit::needed(memory)),
        (false, None) => Some(limit::needed(limit::host_memory(host)?)),
    };
    if !args.change.dry_run {
        candidates.plan.apply(host, limit)?.commit()?;
    }
    let document = Document::new("tdx.gpu.bind", items);
    Ok(document.dry_run(args.change.dry_run).warnings(warnings).into())
}
