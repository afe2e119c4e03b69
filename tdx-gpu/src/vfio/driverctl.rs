//! driverctl, which can have a driver override for a device saved, and sets it at every boot.

use common::system::pci::Bdf;
use common::system::sysroot::Host;

/// A warning about the override that driverctl has saved for a device; none where it has none.
///
/// Source: driverctl(8): `/etc/driverctl.d` has a file a device, which holds the name of the driver.
pub fn warning(host: &Host, bdf: Bdf) -> Option<String> {
    let driver = host.read(&format!("/etc/driverctl.d/{bdf}")).ok()??;
    Some(format!(
        "driverctl sets the driver override {:?} of {bdf} at every boot: driverctl unset-override {bdf}",
        driver.trim()
    ))
}
