//! The devices of one domain: they are bound to VFIO, get their modes, and are released together.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use common::cli::interrupt;
use common::device_state::bound_devices::{BoundLock, Record};
use common::device_state::device_lock;
use common::device_state::device_lock::{DeviceLock, Record as _};
use common::system::pci::Bdf;
use common::system::sysroot::Host;
use common::{Error, Result};
use tdx_iommu::inventory::Inventory;
use tdx_iommu::inventory::device::Device;

use crate::cc::gpu_tools::GpuTools;
use crate::cc::setting;
use crate::cc::setting::{ModeStep, ModifiedModes, PreviousMode};
use crate::vfio::binding::Bound;
use crate::vfio::plan::{BindOptions, BindPlan};
use crate::vfio::release::Failure;
use crate::vfio::{in_use, release};

/// How long to wait until a guest that has just ended has closed its devices.
const PATIENCE: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(100);

/// The plan of the devices for a domain.
#[derive(Debug)]
pub struct DeviceAssignment {
    /// The steps that bind the devices.
    pub binding: BindPlan,
    /// The limit on DMA mappings that the domain needs; none if it needs no limit.
    pub limit: Option<u64>,
    /// The modes to set, and NVIDIA's program.
    pub modes: Option<(GpuTools, Vec<ModeStep>)>,
    /// The UUID of the domain.
    pub domain: String,
}

/// The devices of a domain that is being created. [`TakenDevices::commit`] makes the assignment permanent.
#[derive(Debug)]
#[must_use = "the records stay unfinished until the devices are committed"]
pub struct TakenDevices<'h> {
    bound: Bound<'h>,
    modes: Option<ModifiedModes<'h>>,
}

impl DeviceAssignment {
    /// Binds the devices and sets their modes.
    ///
    /// Errors: those of [`BindPlan::lock`], [`BindPlan::apply`] and [`setting::apply`]. On failure, the former state is
    /// restored; what could not be restored is reported as left behind.
    pub fn apply<'h>(&'h mut self, host: &'h Host) -> Result<TakenDevices<'h>> {
        let options = BindOptions { domain: Some(&self.domain), ..BindOptions::default() };
        let (binding, locks) = std::mem::take(&mut self.binding).lock(host, options)?;
        let bound = binding.apply(host, self.limit, locks)?;
        let modes = match &mut self.modes {
            None => Ok(None),
            Some((tools, steps)) => {
                setting::apply(host, tools, std::mem::take(steps), Some(&self.domain)).map(Some)
            }
        };
        match modes {
            Ok(modes) => Ok(TakenDevices { bound, modes }),
            Err(error) => Err(bound.undo_after(error)),
        }
    }
}

impl TakenDevices<'_> {
    /// Makes the assignment permanent, because the domain was created.
    pub fn commit(self) -> Result<()> {
        self.modes.map_or(Ok(()), ModifiedModes::commit)?;
        self.bound.commit()
    }

    /// Releases the devices after a failure. What could not be restored is reported in the error.
    pub fn undo_after(self, error: Error) -> Error {
        let error = match self.modes {
            Some(modes) => modes.undo_after(error),
            None => error,
        };
        self.bound.undo_after(error)
    }
}

/// The devices that are recorded for one domain.
#[derive(Debug, Default)]
pub struct AssignedDevices {
    domain: String,
    bound: BTreeSet<Bdf>,
    modes: BTreeSet<Bdf>,
}

impl AssignedDevices {
    /// Reads the records of a domain, by its UUID.
    ///
    /// Errors: `permission` for users other than root; `io`.
    pub fn load(host: &Host, domain: &str) -> Result<Self> {
        // A damaged record belongs to no domain; tdx-gpu unbind --all reports it.
        let bound = device_lock::all::<Record>(host)?.into_iter().flatten();
        let bound = bound.filter(|stored| stored.record.domain.as_deref() == Some(domain));
        let modes = device_lock::all::<PreviousMode>(host)?.into_iter().flatten();
        let modes = modes.filter(|stored| stored.record.domain.as_deref() == Some(domain));
        Ok(Self {
            domain: domain.to_owned(),
            bound: bound.map(|stored| stored.record.bdf).collect(),
            modes: modes.map(|stored| stored.record.bdf).collect(),
        })
    }

    /// The PCI addresses of the devices.
    pub fn devices(&self) -> BTreeSet<Bdf> {
        self.bound.union(&self.modes).copied().collect()
    }

    /// Locks the devices. Leaves out devices that another command has released, or bound for another domain, after the
    /// records were read.
    fn lock(&self, host: &Host) -> Result<(Vec<BoundLock>, Vec<DeviceLock<PreviousMode>>)> {
        let domain = Some(self.domain.as_str());
        let (mut bound, mut modes) = (Vec::new(), Vec::new());
        for bdf in &self.bound {
            let lock = BoundLock::take(host, *bdf)?;
            let is_ours = lock.record().is_some_and(|record| record.domain.as_deref() == domain);
            bound.extend(is_ours.then_some(lock));
        }
        for bdf in &self.modes {
            let lock = DeviceLock::<PreviousMode>::take(host, *bdf)?;
            let is_ours =
                lock.record().is_some_and(|previous| previous.domain.as_deref() == domain);
            modes.extend(is_ours.then_some(lock));
        }
        Ok((bound, modes))
    }

    /// Marks the records of a killed command as finished, because the domain runs with the devices.
    pub fn commit(self, host: &Host) -> Result<()> {
        let (bound, modes) = self.lock(host)?;
        let is_begun = |lock: &BoundLock| lock.record().is_some_and(|r| !r.is_committed());
        bound.into_iter().filter(is_begun).try_for_each(BoundLock::commit)?;
        let is_begun =
            |lock: &DeviceLock<PreviousMode>| lock.record().is_some_and(|r| !r.is_committed());
        modes.into_iter().filter(is_begun).try_for_each(DeviceLock::commit)
    }

    /// Restores the modes and the drivers of the devices. Returns the devices that were released.
    ///
    /// Errors: `conflict` with code `IN_USE_BY_VM` while a process has a device open, with `RESERVED` while another
    /// command works on a device; those of the kernel and of NVIDIA's program. Devices that were not released are
    /// reported as left behind.
    pub fn give_back(self, host: &Host) -> Result<Vec<Bdf>> {
        let devices = self.devices();
        if devices.is_empty() {
            return Ok(Vec::new());
        }
        let (bound, modes) = self.lock(host)?;
        let mut inventory = Inventory::read(host)?;
        let present: Vec<Bdf> =
            devices.iter().copied().filter(|bdf| inventory.devices.contains_key(bdf)).collect();
        inventory.wake(host, present.iter().copied());
        let end = Instant::now() + PATIENCE;
        while let Err(error) = in_use::refuse(host, &inventory, present.iter().copied()) {
            if Instant::now() >= end {
                return Err(error);
            }
            interrupt::sleep(POLL)?;
        }
        let unset = setting::restore_modes(&inventory, modes);
        let stays: BTreeSet<Bdf> = unset.iter().map(|(bdf, _)| *bdf).collect();
        let failure = |(bdf, error)| Failure {
            what: format!("the confidential-computing mode of {bdf}"),
            error,
        };
        let mut failures: Vec<Failure> = unset.into_iter().map(failure).collect();
        let mut releasing = Vec::new();
        for lock in bound.into_iter().filter(|lock| !stays.contains(&lock.bdf())) {
            let present = inventory.devices.get(&lock.bdf()).map(Device::identity);
            let is_other = |record: &Record| {
                present.as_ref().is_some_and(|present| record.identity.contradicts(present))
            };
            if lock.record().is_some_and(is_other) { lock.forget()? } else { releasing.push(lock) }
        }
        failures.extend(release::give_back(host, releasing).failures);
        let done: Vec<Bdf> = devices.into_iter().filter(|bdf| !stays.contains(bdf)).collect();
        release::settle_failures(
            failures,
            done.iter().map(|bdf| format!("released {bdf}")).collect(),
        )?;
        Ok(done)
    }
}
