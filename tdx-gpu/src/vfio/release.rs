//! Unbinds devices from VFIO and binds them to their former drivers.

use common::cli::log;
use common::device_state::bound_devices::{BoundLock, Record};
use common::system::pci::Bdf;
use common::system::sysroot::Host;
use common::{Error, Result, parallel};

use crate::vfio::driver::Sysfs;
use crate::vfio::{dma_entry_limit, driver};

/// How many devices are released in parallel. Each release waits for the kernel.
pub(super) const AT_ONCE: usize = 64;

/// A device or mode that could not be restored, with the error.
#[derive(Debug)]
pub struct Failure {
    /// The description of what is left behind: `0000:17:00.0 on vfio-pci`.
    pub what: String,
    /// The reason.
    pub error: Error,
}

/// The result of releasing devices.
#[derive(Debug)]
pub struct Released {
    /// The devices that were released.
    pub devices: Vec<Bdf>,
    /// A failure for each device that was not released.
    pub failures: Vec<Failure>,
}

/// Releases locked devices: binds each to the driver that its record names.
///
/// For a device without a record, the kernel chooses the driver.
pub fn give_back(host: &Host, locks: Vec<BoundLock>) -> Released {
    let released = parallel::map(locks, AT_ONCE, |lock| {
        let device = Sysfs::new(host, lock.bdf());
        let done = unbind_from_vfio(&device, lock.record());
        (lock, device, done)
    });
    let settled = parallel::map(released, AT_ONCE, |(lock, device, released)| {
        let settled = released.and_then(|()| bind_to_former_driver(host, &device, lock.record()));
        (lock.bdf(), settled.and_then(|()| lock.forget()))
    });
    let mut result = Released { devices: Vec::new(), failures: Vec::new() };
    for (bdf, done) in settled {
        match done {
            Ok(()) => result.devices.push(bdf),
            Err(error) => {
                let driver = Sysfs::new(host, bdf).driver();
                let driver = driver.unwrap_or_else(|| "no driver".to_owned());
                let what = format!("{bdf} on {driver}");
                result.failures.push(Failure { what, error });
            }
        }
    }
    if let Err(error) = dma_entry_limit::restore(host) {
        log::step(format_args!("cannot restore dma_entry_limit: {error}"));
    }
    result
}

/// Returns the first failure as the error, if any, with the changes that were done and what is left behind.
pub fn settle_failures(failures: Vec<Failure>, done: Vec<String>) -> Result<()> {
    let left: Vec<String> = failures.iter().map(|failure| failure.what.clone()).collect();
    match failures.into_iter().next() {
        None => Ok(()),
        Some(failure) => Err(failure.error.applied(done).left_behind(left)),
    }
}

/// Restores the driver override of a device, and unbinds the device from its VFIO driver.
fn unbind_from_vfio(device: &Sysfs<'_>, record: Option<&Record>) -> Result<()> {
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

/// Binds a device to its former driver.
fn bind_to_former_driver(host: &Host, device: &Sysfs<'_>, record: Option<&Record>) -> Result<()> {
    let Some(record) = record else {
        if device.exists() && device.driver().is_none() {
            let _ = device.probe(); // a device without a driver is not a failure
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
