//! Giving devices to VFIO and back: all at once, all or none, and undone when it fails.

use std::collections::BTreeSet;

use common::bound::{Lease, Record};
use common::cli::is_root;
use common::host::Host;
use common::{Error, Result, interrupt, log, parallel};

use crate::driver::{self, Sysfs};
use crate::limit;
use crate::plan::{Plan, Step};

/// How many devices are worked on at once: each waits for the kernel, which takes its time over one.
const AT_ONCE: usize = 64;

/// Devices that VFIO has now, and that go back unless [`Bound::commit`] says that they stay.
#[derive(Debug)]
#[must_use = "the records say that it is unfinished until it is committed"]
pub struct Bound<'h> {
    host: &'h Host,
    leases: Vec<Lease>,
}

impl Plan {
    /// Gives the devices to VFIO, and has the kernel map as much memory as `limit` mappings reach.
    ///
    /// All drivers let go before any is given: the functions of a card can depend on each other.
    /// Errors: `permission` for all but root; whatever the kernel says; then all devices are as before, or
    /// named as left behind.
    pub fn apply(self, host: &Host, limit: Option<u64>) -> Result<Bound<'_>> {
        if self.steps.iter().any(|step| !step.done) {
            as_root()?;
        }
        let drivers: BTreeSet<&str> =
            self.steps.iter().map(|step| step.record.bound_to.as_str()).collect();
        for name in drivers {
            driver::load(host, name)?;
        }
        let mut bound = Bound { host, leases: Vec::new() };
        let taken = bound.take(self.steps, limit);
        match taken {
            Ok(()) => Ok(bound),
            Err(error) => Err(bound.undo_after(error)),
        }
    }
}

impl Bound<'_> {
    fn take(&mut self, steps: Vec<Step>, limit: Option<u64>) -> Result<()> {
        let host = self.host;
        for step in steps.into_iter().filter(|step| !step.done) {
            interrupt::check()?;
            if step.outdated {
                Lease::resume(host, step.record.clone())?.forget()?;
            }
            let bound_to = driver::loaded_name(host, &step.record.bound_to);
            let record = Record { bound_to, ..step.record };
            self.leases.push(match step.resumed {
                true => Lease::resume(host, record)?,
                false => Lease::begin(host, record)?,
            });
        }
        if let Some(limit) = limit {
            limit::raise(host, limit)?;
        }
        self.each(|record| {
            let device = Sysfs::new(host, record.bdf);
            device.set_override(Some(&record.bound_to))?;
            device.unbind()
        })?;
        interrupt::check()?;
        self.each(|record| {
            let device = Sysfs::new(host, record.bdf);
            device.probe()?;
            device.wait_for(&record.bound_to)
        })?;
        interrupt::check()
    }

    /// Does the same to every device at once. The first failure is the error.
    fn each(&self, work: impl Fn(&Record) -> Result<()> + Sync) -> Result<()> {
        let records = self.leases.iter().map(|lease| &lease.record).collect();
        parallel::map(records, AT_ONCE, work).into_iter().collect()
    }

    /// The devices stay with VFIO.
    pub fn commit(self) -> Result<()> {
        self.leases.into_iter().try_for_each(Lease::commit)
    }

    /// Gives everything back after a failure, which then says what is left.
    pub fn undo_after(self, error: Error) -> Error {
        let going = self.leases.into_iter().map(|lease| Going { lease, to_any: false });
        let (_, failures) = give_back(self.host, going.collect());
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

/// A device on its way back.
#[derive(Debug)]
pub struct Going {
    /// The record of it, ours alone.
    pub lease: Lease,
    /// Whether any driver may have it: nobody knows which one had.
    pub to_any: bool,
}

/// Gives devices back to what they were taken from. Returns those that are, and what was left with the
/// reason.
pub fn give_back(host: &Host, going: Vec<Going>) -> (Vec<Record>, Vec<(String, Error)>) {
    let released = parallel::map(going, AT_ONCE, |going| {
        let done = release(host, &going.lease.record);
        (going, done)
    });
    let settled = parallel::map(released, AT_ONCE, |(Going { lease, to_any }, released)| {
        let record = lease.record.clone();
        let settled = released.and_then(|()| settle(host, &record, to_any));
        (record, settled.and_then(|()| lease.forget()))
    });
    let (mut given, mut failures) = (Vec::new(), Vec::new());
    for (record, done) in settled {
        match done {
            Ok(()) => given.push(record),
            Err(error) => {
                let driver = Sysfs::new(host, record.bdf).driver();
                let driver = driver.unwrap_or_else(|| "no driver".to_owned());
                failures.push((format!("{} on {driver}", record.bdf), error));
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

/// First for all: the override as it was, and VFIO lets go.
fn release(host: &Host, record: &Record) -> Result<()> {
    let device = Sysfs::new(host, record.bdf);
    if !device.exists() {
        return Ok(());
    }
    if device.driver_override() != record.driver_override {
        device.set_override(record.driver_override.as_deref())?;
    }
    match device.driver() {
        Some(driver) if Some(&driver) != record.driver.as_ref() => device.unbind(),
        _ => Ok(()),
    }
}

/// Then for all: the driver it had.
fn settle(host: &Host, record: &Record, to_any: bool) -> Result<()> {
    let device = Sysfs::new(host, record.bdf);
    if to_any && device.exists() && device.driver().is_none() {
        let _ = device.probe(); // that none wants it is no failure
        return Ok(());
    }
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
