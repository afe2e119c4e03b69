//! Devices to bind to VFIO: they are checked, and a plan and the items of a document are made.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

use common::device_state::bound_devices;
use common::device_state::bound_devices::{BoundLock, BoundRecord, Record};
use common::document::{Action, Item};
use common::system::pci::Bdf;
use common::system::sysroot::Host;
use common::units::Size;
use common::{Code, Error, Result};
use schemars::JsonSchema;
use serde::Serialize;
use tdx_iommu::inventory::Inventory;
use tdx_iommu::inventory::identity::DeviceIdentity;
use tdx_iommu::inventory::named_devices::NamedDevices;
use tdx_iommu::inventory::role::Role;
use tdx_iommu::judge::examination::Examination;
use tdx_iommu::judge::{Finding, Request};

use crate::vfio::driver::{Sysfs, Variants};
use crate::vfio::plan::{BindOptions, BindPlan};
use crate::vfio::{dma_entry_limit, plan};

/// A device in a document of `tdx-gpu bind`.
#[derive(Debug, Serialize, JsonSchema)]
pub struct BindItem {
    /// The PCI address.
    pub bdf: Bdf,
    /// The properties that identify the device.
    #[serde(flatten)]
    pub identity: DeviceIdentity,
    /// The number of the IOMMU group.
    pub iommu_group: Option<u32>,
    /// The role of the device, from its class.
    pub role: Role,
    /// The VFIO driver that the device is bound to now.
    pub driver: String,
    /// The former driver, which `tdx-gpu unbind` binds the device to.
    pub previous_driver: Option<String>,
    /// Whether the device is bound to VFIO at every boot.
    pub persistent: bool,
    /// `bind`; for a device that was already bound, `persist` when it was recorded, otherwise `none`.
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

/// Locks on devices, by PCI address.
pub type Locks = BTreeMap<Bdf, BoundLock>;

/// Locks devices, all or none.
///
/// Errors: those of [`BoundLock::take`].
pub fn lock_devices(host: &Host, devices: &BTreeSet<Bdf>) -> Result<Locks> {
    devices.iter().map(|bdf| Ok((*bdf, BoundLock::take(host, *bdf)?))).collect()
}

/// Devices to bind, with their findings, their records and the plan.
#[derive(Debug)]
pub struct Candidates {
    /// The machine.
    pub inventory: Inventory,
    /// The findings about the devices.
    pub findings: Vec<Finding>,
    /// The records of the devices.
    pub records: BTreeMap<Bdf, BoundRecord>,
    /// The steps that bind the devices.
    pub plan: BindPlan,
}

impl Candidates {
    /// Reads the machine and checks the devices without locks, so that other commands can change them at any time.
    ///
    /// Errors: `not_found`; `conflict` with the code of the blocker, or with `IDENTITY_CHANGED` for a device that
    /// differs from the requested one.
    pub fn find(host: &Host, requested: &NamedDevices, options: BindOptions<'_>) -> Result<Self> {
        let inventory = Inventory::read(host)?;
        requested.expect_same(host, &inventory)?;
        let devices =
            plan::with_group_members(&inventory, &requested.devices, options.whole_group)?;
        let request = Request::new(&inventory, devices);
        let records = read_records(host, request.devices())?;
        let (findings, plan) = judge_and_plan(host, &inventory, &request, options, &records)?;
        Ok(Self { inventory, findings, records, plan })
    }

    /// Locks the devices, then reads the machine and checks the devices. While the locks are held, no other command
    /// changes the devices.
    ///
    /// Errors: those of [`Candidates::find`]; `conflict` with code `RESERVED` while another command works on a device.
    pub fn lock(
        host: &Host,
        requested: &NamedDevices,
        options: BindOptions<'_>,
    ) -> Result<(Self, Locks)> {
        let first_look = Inventory::read(host)?;
        requested.expect_same(host, &first_look)?;
        let devices =
            plan::with_group_members(&first_look, &requested.devices, options.whole_group)?;
        let locks = lock_devices(host, Request::new(&first_look, devices).devices())?;
        let mut inventory = Inventory::read(host)?;
        inventory.wake(host, locks.keys().copied());
        requested.expect_same(host, &inventory)?;
        let devices =
            plan::with_group_members(&inventory, &requested.devices, options.whole_group)?;
        let request = Request::new(&inventory, devices);
        if let Some(new) = request.devices().iter().find(|bdf| !locks.contains_key(bdf)) {
            let message = format!("device {new} appeared while tdx-gpu locked the other devices");
            return Err(Error::conflict(message).hint("run this command again"));
        }
        let records = records(&locks);
        let (findings, plan) = judge_and_plan(host, &inventory, &request, options, &records)?;
        Ok((Self { inventory, findings, records, plan }, locks))
    }

    /// The items of the devices, with the state after the plan.
    pub fn items(&self) -> Vec<BindItem> {
        items(&self.inventory, &self.plan)
    }
}

impl BindPlan {
    /// Locks the devices of an earlier plan and makes the plan again, because the devices may have changed.
    ///
    /// Errors: those of [`Candidates::lock`]; `conflict` with code `IDENTITY_CHANGED` when another device has taken the
    /// place of a planned one.
    pub fn lock(self, host: &Host, options: BindOptions<'_>) -> Result<(Self, Locks)> {
        let devices: BTreeSet<Bdf> = self.steps.iter().map(|step| step.record.bdf).collect();
        let locks = lock_devices(host, &devices)?;
        let mut inventory = Inventory::read(host)?;
        inventory.wake(host, devices.iter().copied());
        for step in &self.steps {
            let Record { bdf, identity, .. } = &step.record;
            if identity.contradicts(&inventory.device(*bdf)?.identity()) {
                let message =
                    format!("the device at {bdf} was replaced after this command started");
                return Err(Error::conflict(message)
                    .code(Code::IdentityChanged)
                    .hint("run this command again"));
            }
        }
        let request = Request::exactly(&inventory, devices);
        let (_, plan) = judge_and_plan(host, &inventory, &request, options, &records(&locks))?;
        Ok((plan, locks))
    }
}

/// The records of devices, read without locks.
///
/// Errors: those of [`bound_devices::load`].
pub fn read_records(host: &Host, devices: &BTreeSet<Bdf>) -> Result<BTreeMap<Bdf, BoundRecord>> {
    let mut records = BTreeMap::new();
    for &bdf in devices {
        records.extend(bound_devices::load(host, bdf)?.map(|stored| (bdf, stored)));
    }
    Ok(records)
}

/// The records of locked devices.
pub fn records(locks: &Locks) -> BTreeMap<Bdf, BoundRecord> {
    locks.values().filter_map(|lock| Some((lock.bdf(), lock.stored()?))).collect()
}

/// Checks the requested devices and makes the plan to bind them.
///
/// Errors: `conflict` with the code of the blocker.
pub fn judge_and_plan(
    host: &Host,
    inventory: &Inventory,
    request: &Request<'_>,
    options: BindOptions<'_>,
    records: &BTreeMap<Bdf, BoundRecord>,
) -> Result<(Vec<Finding>, BindPlan)> {
    let Examination { findings, mut warnings } = Examination::new(host, inventory, request)?;
    let variants = Variants::read(host);
    let driver = |bdf| variants.driver(Sysfs::new(host, bdf));
    let mut plan = BindPlan::new(inventory, request, &findings, options, records, driver)?;
    plan.warnings.append(&mut warnings);
    Ok((findings, plan))
}

/// The items of the devices of a plan, with the state after the plan.
pub fn items(inventory: &Inventory, plan: &BindPlan) -> Vec<BindItem> {
    let item = |step: &plan::BindStep| {
        let record = &step.record;
        let device = &inventory.devices[&record.bdf];
        let driver = device.driver.clone().filter(|_| step.already_bound);
        BindItem {
            bdf: record.bdf,
            identity: device.into(),
            iommu_group: device.group,
            role: device.role,
            driver: driver.unwrap_or_else(|| record.bound_to.clone()),
            previous_driver: record.driver.clone().filter(|_| !step.already_bound),
            persistent: false,
            action: if step.already_bound { Action::None } else { Action::Bind },
        }
    };
    plan.steps.iter().map(item).collect()
}

/// The limit on DMA mappings that a guest with this memory needs; without a size, a guest with all memory of the host.
///
/// Errors: those of [`dma_entry_limit::host_memory`].
pub fn needed_mappings(host: &Host, memory: Option<Size>) -> Result<u64> {
    Ok(dma_entry_limit::needed(memory.map_or_else(|| dma_entry_limit::host_memory(host), Ok)?))
}
