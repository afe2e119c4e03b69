//! Driver overrides that driverctl has saved. driverctl sets a saved override at every boot.

use common::system::pci::Bdf;
use common::system::sysroot::Host;

/// A warning if driverctl has saved a driver override for a device.
///
/// Source: driverctl(8): `/etc/driverctl.d` has one file per device, which contains the name of the driver.
pub fn warning(host: &Host, bdf: Bdf) -> Option<String> {
    let driver = host.read(&format!("/etc/driverctl.d/{bdf}")).ok()??;
    Some(format!(
        "driverctl sets the driver override {:?} of {bdf} at every boot; to stop that, run \
         driverctl unset-override {bdf}",
        driver.trim()
    ))
}
