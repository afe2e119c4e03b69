//! Giving devices to VFIO: all at once, all or none, and undone when it fails.

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

/// Devices that VFIO has now, and that go back unless [`Bound::commit`] says that they stay.
#[derive(Debug)]
#[must_use = "the records say that it is unfinished until it is committed"]
pub struct Bound<'h> {
    host: &'h Host,
    locks: Vec<BoundLock>,
    /// Those that VFIO had before: nobody changes them until all is done.
    done: Locks,
}

impl BindPlan {
    /// Gives the devices to VFIO, and has the kernel map as much memory as `limit` mappings reach. The
    /// plan was made under `locks`, which are held until the devices are committed.
    ///
    /// All drivers release their devices before any is given: the functions of a card can depend on each
    /// other.
    /// Errors: `permission` for all but root; whatever the kernel says; then all devices are as before, or
    /// named as left behind.
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
            let unlocked = || Error::failed(format!("{} was not locked", step.record.bdf));
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

    /// Does the same to every device at once. The first failure is the error.
    fn each(
        &self,
        devices: &[Sysfs<'_>],
        work: impl Fn(&Sysfs<'_>, &Record) -> Result<()> + Sync,
    ) -> Result<()> {
        let records = self.locks.iter().filter_map(BoundLock::record);
        let work = |(device, record)| work(device, record);
        parallel::map(devices.iter().zip(records).collect(), AT_ONCE, work).into_iter().collect()
    }

    /// The devices stay with VFIO.
    pub fn commit(self) -> Result<()> {
        self.locks.into_iter().try_for_each(BoundLock::commit)
    }

    /// Gives everything back after a failure, which then says what is left.
    pub fn undo_after(self, error: Error) -> Error {
        // Without them, the last device that goes back restores the limit on mappings.
        drop(self.done);
        let failures = release::give_back(self.host, self.locks).failures;
        error.left_behind(failures.into_iter().map(|failure| failure.what))
    }
}

/// Fails for all but root.
///
/// Errors: `permission`.
pub fn expect_root() -> Result<()> {
    if is_root() {
        return Ok(());
    }
    Err(Error::permission("binding devices takes root").hint("run it with sudo"))
}
