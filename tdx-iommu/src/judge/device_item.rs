//! The item of a PCI device in documents: its ids, its names and its blockers.

use std::borrow::Cow;
use std::cmp::Ordering;

use common::code::join_codes;
use common::document::Item;
use common::system::pci::Bdf;
use common::system::sysroot::Host;
use common::{Code, Result};
use schemars::JsonSchema;
use serde::Serialize;

use crate::inventory::Inventory;
use crate::inventory::class::Class;
use crate::inventory::device::Device;
use crate::inventory::pci_ids::{IdQuery, PciNames};
use crate::inventory::role::Role;
use crate::judge::Request;

/// A PCI device in a document.
#[derive(Debug, Serialize, JsonSchema)]
pub struct DeviceItem {
    /// The PCI address.
    pub bdf: Bdf,
    /// The hop path: the slots from the root bus to the device. It does not change when buses are renumbered.
    pub path: Option<String>,
    /// The vendor id: four hexadecimal digits.
    pub vendor_id: Option<String>,
    /// The device id: four hexadecimal digits.
    pub device_id: Option<String>,
    /// The subsystem vendor id, which names the maker of the card.
    pub subsystem_vendor_id: Option<String>,
    /// The subsystem device id, which names the card.
    pub subsystem_device_id: Option<String>,
    /// The class code: six hexadecimal digits.
    #[schemars(with = "Option<String>")]
    pub class: Option<Class>,
    /// The name of the class, from pci.ids.
    pub class_name: Option<String>,
    /// The name of the vendor, from pci.ids.
    pub vendor_name: Option<String>,
    /// The name of the device, from pci.ids.
    pub device_name: Option<String>,
    /// The revision: two hexadecimal digits.
    pub revision: Option<String>,
    /// The device serial number: sixteen hexadecimal digits. Null for users other than root, who cannot read it.
    pub serial: Option<String>,
    /// The driver that the device is bound to.
    pub driver: Option<String>,
    /// The driver override: the only driver that may bind the device.
    pub driver_override: Option<String>,
    /// The number of the IOMMU group, which can change with a reboot.
    pub iommu_group: Option<u32>,
    /// The nearest NUMA node.
    pub numa_node: Option<u32>,
    /// Whether the firmware shows its console on the device.
    pub boot_vga: bool,
    /// Whether the device is a bridge, which cannot be given to a guest.
    pub is_bridge: bool,
    /// The reset methods, as the kernel names and orders them.
    pub reset_methods: Vec<String>,
    /// The virtual functions (SR-IOV).
    pub sriov: Sriov,
    /// The role of the device, from its class and the other functions of its slot.
    pub role: Role,
    /// The codes of the blockers of the device and the other functions of its slot.
    pub blockers: Vec<Code>,
}

/// The virtual functions of a device, or the physical function of a virtual function.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct Sriov {
    /// How many virtual functions the device supports.
    pub total_vfs: u32,
    /// How many virtual functions the device has.
    pub num_vfs: u32,
    /// For a virtual function, the PCI address of its physical function; otherwise null.
    pub physfn: Option<Bdf>,
}

impl Item for DeviceItem {
    const COLUMNS: &'static [&'static str] =
        &["BDF", "ROLE", "ID", "DRIVER", "GROUP", "NUMA", "BLOCKERS", "NAME"];
    const WRAPPED: &'static [&'static str] = &["BLOCKERS", "NAME"];
    const DROPPED: &'static [&'static str] = &["NUMA", "ID", "DRIVER", "ROLE"];

    fn key(&self) -> Cow<'_, str> {
        self.bdf.to_string().into()
    }

    fn compare(&self, other: &Self) -> Ordering {
        self.bdf.cmp(&other.bdf)
    }

    fn row(&self) -> Vec<String> {
        let number = |number: Option<u32>| number.map(|n| n.to_string()).unwrap_or_default();
        let id = |id: &Option<String>| id.clone().unwrap_or_else(|| "????".to_owned());
        let name = self.device_name.as_ref().or(self.vendor_name.as_ref());
        vec![
            self.bdf.to_string(),
            self.role.as_str().to_owned(),
            format!("{}:{}", id(&self.vendor_id), id(&self.device_id)),
            self.driver.clone().unwrap_or_default(),
            number(self.iommu_group),
            number(self.numa_node),
            join_codes(&self.blockers),
            name.or(self.class_name.as_ref()).cloned().unwrap_or_default(),
        ]
    }
}

impl DeviceItem {
    /// The item of a device with these blockers.
    pub(crate) fn new(device: &Device, names: &PciNames, blockers: Vec<Code>) -> Self {
        let id = |id: Option<u16>| id.map(|id| format!("{id:04x}"));
        let both = device.vendor.zip(device.device);
        Self {
            bdf: device.bdf,
            path: device.path.as_ref().map(ToString::to_string),
            vendor_id: id(device.vendor),
            device_id: id(device.device),
            subsystem_vendor_id: id(device.subsystem_vendor),
            subsystem_device_id: id(device.subsystem_device),
            class: device.class,
            class_name: device.class.and_then(|c| names.class(c)).map(str::to_owned),
            vendor_name: device.vendor.and_then(|v| names.vendor(v)).map(str::to_owned),
            device_name: both.and_then(|(v, d)| names.device(v, d)).map(str::to_owned),
            revision: device.revision.map(|revision| format!("{revision:02x}")),
            serial: device.serial.clone(),
            driver: device.driver.clone(),
            driver_override: device.driver_override.clone(),
            iommu_group: device.group,
            numa_node: device.numa_node,
            boot_vga: device.boot_vga,
            is_bridge: device.is_bridge,
            reset_methods: device.reset_methods.clone(),
            sriov: Sriov {
                total_vfs: device.total_vfs,
                num_vfs: device.num_vfs,
                physfn: device.physfn,
            },
            role: device.role,
            blockers,
        }
    }
}

/// The items of devices with names from pci.ids. The blockers of each are those of a request for this device alone.
///
/// Errors: those of [`PciNames::read`].
pub fn device_items<'d>(
    host: &Host,
    inventory: &Inventory,
    devices: impl IntoIterator<Item = &'d Device>,
) -> Result<Vec<DeviceItem>> {
    let devices: Vec<&Device> = devices.into_iter().collect();
    let names = PciNames::read(host, &IdQuery::for_devices(devices.iter().copied()))?;
    let item = |device: &&Device| {
        let blockers = Request::new(inventory, [device.bdf]).blockers();
        DeviceItem::new(device, &names, blockers)
    };
    Ok(devices.iter().map(item).collect())
}
