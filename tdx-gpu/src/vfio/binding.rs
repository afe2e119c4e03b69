//! Giving devices to VFIO and back: all at once, all or none, and undone when it fails.

use std::collections::BTreeSet;

use common::cli::{interrupt, is_root, log};
use common::device_state::bound_devices::{BoundLock, Record};
use common::system::pci::Bdf;
use common::system::sysroot::Host;
use common::{Error, Result, parallel};

use crate::vfio::candidates::Locks;
use crate::vfio::driver::Sysfs;
use crate::vfio::plan::Plan;
use crate::vfio::{driver, limit};

/// How many devices are worked on at once: each waits for the kernel, which takes its time over one.
const AT_ONCE: usize = 64;

/// Devices that VFIO has now, and that go back unless [`Bound::commit`] says that they stay.
#[derive(Debug)]
#[must_use = "the records say that it is unfinished until it is committed"]
pub struct Bound<'h> {
    host: &'h Host,
    locks: Vec<BoundLock>,
    /// Those that VFIO had before: nobody changes them until all is done.
    done: Locks,
}

impl Plan {
    /// Gives the devices to VFIO, and has the kernel map as much memory as `limit` mappings reach. The
    /// plan was made under `locks`, which are held until the devices are committed.
    ///
    /// All drivers release their devices before any is given: the functions of a card can depend on each
    /// other.
    /// Errors: `permission` for all but root; whatever the kernel says; then all devices are as before, or
    /// named as left behind.
    pub fn apply(self, host: &Host, limit: Option<u64>, mut locks: Locks) -> Result<Bound<'_>> {
        if self.steps.iter().any(|step| !step.done) {
            as_root()?;
        }
        let drivers: BTreeSet<&str> =
            self.steps.iter().map(|step| step.record.bound_to.as_str()).collect();
        for name in drivers {
            driver::load(host, name)?;
        }
        let mut work = Vec::new();
        for step in self.steps.into_iter().filter(|step| !step.done) {
            let lock = locks.remove(&step.record.bdf);
            let unlocked = || Error::failed(format!("{} was not locked", step.record.bdf));
            work.push((lock.ok_or_else(unlocked)?, step.record));
        }
        let mut bound = Bound { host, locks: Vec::new(), done: locks };
        let taken = bound.take(work, limit);
        match taken {
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
            limit::raise(host, limit)?;
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
        let (_, failures) = give_back(self.host, self.locks);
        error.left_behind(failures.into_iter().map(|(what, _)| what))
    }
}

/// Fails for all but root.
///
/// Errors: `permission`.
pub fn as_root() -> Result<()> {
    match is_root() {
        true => Ok(()),
        false => Err(Error::permission("binding devices takes root").hint("run it with sudo")),
    }
}

/// Gives locked devices back to what their records say that they were taken from. Returns those that are,
/// and what was left with the reason.
///
/// A device that VFIO has without a record goes to whatever driver wants it.
pub fn give_back(host: &Host, locks: Vec<BoundLock>) -> (Vec<Bdf>, Vec<(String, Error)>) {
    let released = parallel::map(locks, AT_ONCE, |lock| {
        let device = Sysfs::new(host, lock.bdf());
        let done = release(&device, lock.record());
        (lock, device, done)
    });
    let settled = parallel::map(released, AT_ONCE, |(lock, device, released)| {
        let settled = released.and_then(|()| settle(host, &device, lock.record()));
        (lock.bdf(), settled.and_then(|()| lock.forget()))
    });
    let (mut given, mut failures) = (Vec::new(), Vec::new());
    for (bdf, done) in settled {
        match done {
            Ok(()) => given.push(bdf),
            Err(error) => {
                let driver = Sysfs::new(host, bdf).driver();
                let driver = driver.unwrap_or_else(|| "no driver".to_owned());
                failures.push((format!("{bdf} on {driver}"), error));
            }
        }
    }
    if let Err(error) = limit::restore(host) {
        log::step(format_args!("dma_entry_limit stays: {error}"));
    }
    (given, failures)
}

/// Fails with the first failure when there is one, which then says what was done and what is left.
pub fn settle_failures(failures: Vec<(String, Error)>, done: Vec<String>) -> Result<()> {
    let left: Vec<String> = failures.iter().map(|(what, _)| what.clone()).collect();
    match failures.into_iter().next() {
        None => Ok(()),
        Some((_, error)) => Err(error.applied(done).left_behind(left)),
    }
}

/// First for all: the override as it was, and VFIO releases the device.
fn release(device: &Sysfs<'_>, record: Option<&Record>) -> Result<()> {
    if !device.exists() {
        return Ok(());
    }
    let driver_override = record.and_then(|record| record.driver_override.as_deref());
    if device.driver_override().as_deref() != driver_override {
        device.set_override(driver_override)?;
    }
    let former = record.and_then(|record| record.driver.as_ref());
    match device.driver() {
        Some(driver) if Some(&driver) != former => device.unbind(),
        _ => Ok(()),
    }
}

/// Then for all: the driver it had.
fn settle(host: &Host, device: &Sysfs<'_>, record: Option<&Record>) -> Result<()> {
    let Some(record) = record else {
        if device.exists() && device.driver().is_none() {
            let _ = device.probe(); // that none wants it is no failure
        }
        return Ok(());
    };
    let Some(driver) = record.driver.as_ref().filter(|_| device.exists()) else {
        return Ok(());
    };
    if device.driver().as_ref() == Some(driver) {
        return Ok(());
    }
    driver::load(host, driver)?;
    device.probe()?;
    device.wait_for(driver)
}
