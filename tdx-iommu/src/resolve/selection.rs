//! Chooses the devices of the machine that match a request.

use std::cell::OnceCell;

use common::device_state::bound_devices;
use common::system::pci::Bdf;
use common::system::sysroot::Host;

use crate::inventory::Inventory;
use crate::inventory::device::Device;
use crate::inventory::pci_ids::PciNames;
use crate::resolve::modalias;
use crate::resolve::passthrough_config::{Criterion, DeviceRequest, Select};

/// The devices that a request chooses.
///
/// Errors: the reason why the request chooses none, as a clause whose subject is the request.
pub(super) fn select_devices(
    inventory: &Inventory,
    request: &DeviceRequest,
    drivers: &KnownDrivers<'_>,
    names: &PciNames,
) -> Result<Vec<Bdf>, String> {
    let matches = |device: &&Device| {
        // A bridge cannot be given to a guest, even if it matches.
        !device.is_bridge
            && request.criteria.iter().all(|c| criterion_holds(c, device, drivers, names))
    };
    let found: Vec<Bdf> = inventory.devices.values().filter(matches).map(|d| d.bdf).collect();
    let count = found.len();
    match request.select {
        _ if count == 0 && request.optional => Ok(found),
        _ if count == 0 => Err("matches no device".to_owned()),
        Select::All => Ok(found),
        Select::First(number) if number <= count => Ok(found.into_iter().take(number).collect()),
        Select::Index(index) if index < count => Ok(vec![found[index]]),
        _ if request.optional => Ok(Vec::new()),
        Select::First(number) => Err(format!("matches {count} devices, but count is {number}")),
        Select::Index(index) => {
            Err(format!("matches {count} devices, so select_index {index} is too large"))
        }
    }
}

/// Whether a device matches a criterion.
fn criterion_holds(
    criterion: &Criterion,
    device: &Device,
    drivers: &KnownDrivers<'_>,
    names: &PciNames,
) -> bool {
    match criterion {
        Criterion::Vendor(id) => device.vendor == Some(*id),
        Criterion::Device(id) => device.device == Some(*id),
        Criterion::SubsystemVendor(id) => device.subsystem_vendor == Some(*id),
        Criterion::SubsystemDevice(id) => device.subsystem_device == Some(*id),
        Criterion::Class(prefix) => device.class.is_some_and(|class| prefix.matches(class)),
        Criterion::Driver(name) => {
            drivers.of_device(device).iter().any(|d| d.eq_ignore_ascii_case(name))
        }
        Criterion::Address(bdf) => device.bdf == *bdf,
        Criterion::Path(path) => device.path.as_ref() == Some(path),
        Criterion::Serial(serial) => device.serial.as_ref() == Some(serial),
        Criterion::Name(regex) => {
            let vendor = device.vendor.and_then(|vendor| names.vendor(vendor));
            let name = device.vendor.zip(device.device).and_then(|(v, d)| names.device(v, d));
            regex.is_match(&[vendor, name].into_iter().flatten().collect::<Vec<_>>().join(" "))
        }
    }
}

/// The drivers that a criterion compares: the device's driver and, for a device that is bound to VFIO, the former
/// driver or the drivers that match its modalias. Without the latter, the same file would choose other devices after
/// it was applied.
#[derive(Debug)]
pub(super) struct KnownDrivers<'h> {
    host: &'h Host,
    aliases: OnceCell<String>,
}

impl<'h> KnownDrivers<'h> {
    /// Creates the list. It is only read when the first device is bound to VFIO.
    pub(super) fn new(host: &'h Host) -> Self {
        Self { host, aliases: OnceCell::new() }
    }

    fn of_device(&self, device: &Device) -> Vec<String> {
        let mut drivers: Vec<String> = device.driver.iter().cloned().collect();
        if !device.on_vfio() {
            return drivers;
        }
        // Users other than root cannot read the record and use the modalias.
        let record =
            bound_devices::load(self.host, device.bdf).ok().flatten().map(|found| found.record);
        match record {
            Some(record) => drivers.extend(record.driver),
            None => {
                let aliases = self.aliases.get_or_init(|| modalias::read_aliases(self.host));
                drivers.extend(modalias::matching_drivers(self.host, aliases, device.bdf));
            }
        }
        drivers
    }
}
