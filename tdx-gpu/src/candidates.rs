//! Devices that may go to VFIO: judged, planned and as a document tells of them.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::collections::BTreeMap;

use common::Result;
use common::bound;
use common::document::{Action, Item};
use common::host::Host;
use common::pci::Bdf;
use common::units::Size;
use schemars::JsonSchema;
use serde::Serialize;
use tdx_iommu::check;
use tdx_iommu::identity::DeviceIdentity;
use tdx_iommu::inventory::Inventory;
use tdx_iommu::judgement::{Finding, Request};
use tdx_iommu::request::Requested;
use tdx_iommu::role::Role;

use crate::driver::{Sysfs, Variants};
use crate::limit;
use crate::plan::{self, Plan, Terms};

/// A device that was to be given to VFIO.
#[derive(Debug, Serialize, JsonSchema)]
pub struct BindItem {
    /// Address.
    pub bdf: Bdf,
    /// What it is.
    #[serde(flatten)]
    pub identity: DeviceIdentity,
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
    /// Errors: `not_found`; `conflict` with the code of what stands in the way, `IDENTITY_CHANGED` for a
    /// device that is not the one that was requested.
    pub fn find(host: &Host, requested: &Requested, terms: Terms<'_>) -> Result<Self> {
        let inventory = Inventory::read(host)?;
        requested.expect_same(host, &inventory)?;
        let wanted = plan::requested(&inventory, &requested.devices, terms.whole_group)?;
        let (findings, plan) = judge(host, &inventory, &Request::new(&inventory, wanted), terms)?;
        Ok(Self { inventory, findings, plan })
    }

    /// The devices in a document, as they will be.
    pub fn items(&self) -> Vec<BindItem> {
        items(&self.inventory, &self.plan)
    }
}

/// Plans to bind what is asked for, judged as the machine is now.
///
/// Errors: `conflict` with the code of what stands in the way.
pub fn judge(
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
pub fn items(inventory: &Inventory, plan: &Plan) -> Vec<BindItem> {
    let item = |step: &plan::Step| {
        let record = &step.record;
        let device = &inventory.devices[&record.bdf];
        let driver = device.driver.clone().filter(|_| step.done);
        BindItem {
            bdf: record.bdf,
            identity: device.into(),
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
pub fn mappings(host: &Host, memory: Option<Size>) -> Result<u64> {
    Ok(limit::needed(memory.map_or_else(|| limit::host_memory(host), Ok)?))
}
