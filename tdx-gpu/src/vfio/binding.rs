//! Binds devices to VFIO, all or none. A failure restores the former drivers.

use std::collections::BTreeSet;

use common::cli::{interrupt, is_root};
use common::device_state::bound_devices::{BoundLock, Record};
use common::system::sysroot::Host;
use common::{Error, Result, parallel};

use crate::vfio::candidates::Locks;
use crate::vfio::driver::Sysfs;
use crate::vfio::plan::BindPlan;
use crate::vfio::release::AT_ONCE;
use crate::vfio::{dma_entry_limit, driver, release};

/// Devices that were bound to VFIO. [`Bound::commit`] keeps them bound; [`Bound::undo_after`] releases them.
#[derive(Debug)]
#[must_use = "the records stay unfinished until the devices are committed"]
pub struct Bound<'h> {
    host: &'h Host,
    locks: Vec<BoundLock>,
    /// Locks on the devices that were already bound to VFIO, so that no other command changes them.
    done: Locks,
}

impl BindPlan {
    /// Binds the devices to VFIO, and raises the limit on DMA mappings to `limit`. The plan was made under `locks`,
    /// which are held until the devices are committed.
    ///
    /// All devices are unbound from their drivers before the first one is bound to VFIO, because the functions of a
    /// card can depend on each other.
    /// Errors: `permission` for users other than root; those of the kernel. On failure, the former drivers are
    /// restored; devices that were not restored are reported as left behind.
    pub fn apply(self, host: &Host, limit: Option<u64>, mut locks: Locks) -> Result<Bound<'_>> {
        if self.steps.iter().any(|step| !step.already_bound) {
            expect_root()?;
        }
        let drivers: BTreeSet<&str> =
            self.steps.iter().map(|step| step.record.bound_to.as_str()).collect();
        for name in drivers {
            driver::load(host, name)?;
        }
        let mut work = Vec::new();
        for step in self.steps.into_iter().filter(|step| !step.already_bound) {
            let lock = locks.remove(&step.record.bdf);
            let unlocked = || {
                Error::failed(format!("internal error: device {} is not locked", step.record.bdf))
            };
            work.push((lock.ok_or_else(unlocked)?, step.record));
        }
        let mut bound = Bound { host, locks: Vec::new(), done: locks };
        match bound.take(work, limit) {
            Ok(()) => Ok(bound),
            Err(error) => Err(bound.undo_after(error)),
        }
    }
}

impl Bound<'_> {
    fn take(&mut self, work: Vec<(BoundLock, Record)>, limit: Option<u64>) -> Result<()> {
        let host = self.host;
        for (mut lock, record) in work {
            interrupt::check()?;
            let bound_to = driver::loaded_name(host, &record.bound_to);
            lock.write(Record { bound_to, ..record })?;
            self.locks.push(lock);
        }
        if let Some(limit) = limit {
            dma_entry_limit::raise(host, limit)?;
        }
        let devices: Vec<Sysfs<'_>> =
            self.locks.iter().map(|lock| Sysfs::new(host, lock.bdf())).collect();
        self.each(&devices, |device, record| {
            device.set_override(Some(&record.bound_to))?;
            device.unbind()
        })?;
        interrupt::check()?;
        self.each(&devices, |device, record| {
            device.probe()?;
            device.wait_for(&record.bound_to)
        })?;
        interrupt::check()
    }

    /// Calls `work` for all devices in parallel. The first failure is the error.
    fn each(
        &self,
        devices: &[Sysfs<'_>],
        work: impl Fn(&Sysfs<'_>, &Record) -> Result<()> + Sync,
    ) -> Result<()> {
        let records = self.locks.iter().filter_map(BoundLock::record);
        let work = |(device, record)| work(device, record);
        parallel::map(devices.iter().zip(records).collect(), AT_ONCE, work).into_iter().collect()
    }

    /// Keeps the devices bound to VFIO.
    pub fn commit(self) -> Result<()> {
        self.locks.into_iter().try_for_each(BoundLock::commit)
    }

    /// Releases the devices after a failure. Devices that were not released are reported in the error.
    pub fn undo_after(self, error: Error) -> Error {
        // Without these locks, the last device to be released restores the limit on DMA mappings.
        drop(self.done);
        let failures = release::give_back(self.host, self.locks).failures;
        error.left_behind(failures.into_iter().map(|failure| failure.what))
    }
}

/// Fails for users other than root.
///
/// Errors: `permission`.
pub fn expect_root() -> Result<()> {
    if is_root() {
        return Ok(());
    }
    Err(Error::permission("binding devices needs root").hint("run this command with sudo"))
}
