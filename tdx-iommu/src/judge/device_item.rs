//! A PCI device in a document: what it is, its names, and what keeps it from a guest.

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
    /// Address.
    pub bdf: Bdf,
    /// Where it sits, hop by hop from the root bus; survives the renumbering of buses.
    pub path: Option<String>,
    /// Vendor id, four hexadecimal digits.
    pub vendor_id: Option<String>,
    /// Device id, four hexadecimal digits.
    pub device_id: Option<String>,
    /// Vendor id of the card.
    pub subsystem_vendor_id: Option<String>,
    /// Device id of the card.
    pub subsystem_device_id: Option<String>,
    /// Class code, six hexadecimal digits.
    #[schemars(with = "Option<String>")]
    pub class: Option<Class>,
    /// Name of the class, from pci.ids.
    pub class_name: Option<String>,
    /// Name of the vendor, from pci.ids.
    pub vendor_name: Option<String>,
    /// Name of the device, from pci.ids.
    pub device_name: Option<String>,
    /// Revision, two hexadecimal digits.
    pub revision: Option<String>,
    /// Device serial number, sixteen hexadecimal digits. Only root can see it.
    pub serial: Option<String>,
    /// The driver that is bound.
    pub driver: Option<String>,
    /// The only driver that may be bound.
    pub driver_override: Option<String>,
    /// Number of its IOMMU group; another one after a reboot.
    pub iommu_group: Option<u32>,
    /// The NUMA node it is near to.
    pub numa_node: Option<u32>,
    /// Whether the firmware's console is on it.
    pub boot_vga: bool,
    /// Whether it is a bridge, which no guest can be given.
    pub is_bridge: bool,
    /// How it can be reset, in the kernel's words and order.
    pub reset_methods: Vec<String>,
    /// Virtual functions.
    pub sriov: Sriov,
    /// What it is for.
    pub role: Role,
    /// Codes of what keeps it, with the other functions of its slot, from a guest.
    pub blockers: Vec<Code>,
}

/// Virtual functions of a device, or what it is one of.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct Sriov {
    /// How many it can have.
    pub total_vfs: u32,
    /// How many it has.
    pub num_vfs: u32,
    /// The physical function, of a virtual one.
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

/// The items of devices, each judged as if it alone were asked for, with names from pci.ids.
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
