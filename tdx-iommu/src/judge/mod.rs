//! Finds the blockers of devices, from the inventory and without reading the machine again.
//!
//! The kernel gives an IOMMU group to a guest only as a whole. A request for a device includes the other functions of
//! its slot. The other devices of the group must not be bound to drivers of the host.
//! Source: Linux `Documentation/driver-api/vfio.rst`; `drivers/vfio/pci/vfio_pci_core.c`, which refuses devices that
//! are not endpoints or have virtual functions; `iommu_device_use_default_domain()`, for devices that block a group.

pub mod device_item;
pub mod examination;
pub mod explanation;
pub mod framebuffer;
pub mod holders;

use std::collections::{BTreeMap, BTreeSet};

use common::Code;
use common::code::Level;
use common::system::pci::Bdf;

use crate::inventory::Inventory;
use crate::inventory::device::Device;
use crate::inventory::usage::host_use::HostUse;
use crate::judge::explanation::list_first;

/// A finding about a device: a blocker or a note.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    /// The requested device.
    pub bdf: Bdf,
    /// The code of the finding.
    pub code: Code,
    /// The finding in one clause that names the object.
    pub message: String,
}

/// A request to give devices to one guest together.
#[derive(Debug)]
pub struct Request<'i> {
    inventory: &'i Inventory,
    devices: BTreeSet<Bdf>,
}

impl<'i> Request<'i> {
    /// A request for these devices and the other functions of their slots. See [`Inventory::slot`].
    pub fn new(inventory: &'i Inventory, named: impl IntoIterator<Item = Bdf>) -> Self {
        let slots = named.into_iter().flat_map(|bdf| inventory.slot(bdf).map(|d| d.bdf));
        Self { inventory, devices: slots.collect() }
    }

    /// A request for exactly these devices, without the other functions of their slots.
    pub fn exactly(inventory: &'i Inventory, devices: BTreeSet<Bdf>) -> Self {
        Self { inventory, devices }
    }

    /// The PCI addresses of all requested devices.
    pub fn devices(&self) -> &BTreeSet<Bdf> {
        &self.devices
    }

    /// The codes of the blockers of the request, without duplicates. Notes are left out.
    pub fn blockers(&self) -> Vec<Code> {
        let mut codes = BTreeSet::new();
        for device in self.members() {
            self.judge_device(device, &mut |code, _| {
                codes.insert(code);
            });
            if self.other_members(device, MemberFilter::Blocking).next().is_some() {
                codes.insert(Code::HostDriver);
            }
        }
        codes.into_iter().filter(|code| code.level() != Level::Note).collect()
    }

    /// All findings about the request, including notes, sorted by device and code.
    pub fn findings(&self) -> Vec<Finding> {
        let mut findings = Vec::new();
        // The findings about a group are computed once for all its requested members.
        let mut of_groups = BTreeMap::<u32, Vec<(Code, String)>>::new();
        for device in self.members() {
            let bdf = device.bdf;
            self.judge_device(device, &mut |code, message| {
                findings.push(Finding { bdf, code, message: message() });
            });
            if let Some(number) = device.group {
                let of_group = of_groups
                    .entry(number)
                    .or_insert_with(|| self.judge_other_members(device, number));
                findings.extend(of_group.iter().map(|(code, message)| Finding {
                    bdf,
                    code: *code,
                    message: message.clone(),
                }));
            }
        }
        findings.sort();
        findings
    }

    /// The findings about the members of a device's group that are not requested.
    fn judge_other_members(&self, device: &Device, number: u32) -> Vec<(Code, String)> {
        let drives = |device: &Device| {
            format!("{} ({})", device.bdf, device.driver.as_deref().unwrap_or_default())
        };
        let blocking = self.other_members(device, MemberFilter::Blocking).map(drives);
        let others = self.other_members(device, MemberFilter::All);
        let idle = others.filter(|other| !other.is_bridge && !other.blocks_group());
        let idle = idle.map(|other| other.bdf.to_string());
        let finding = |code, what: &str, names: Vec<String>| {
            let message =
                format!("IOMMU group {number} has other devices{what}: {}", list_first(&names));
            (!names.is_empty()).then_some((code, message))
        };
        let both = [
            finding(Code::HostDriver, " bound to drivers of the host", blocking.collect()),
            finding(Code::UnlistedMember, "", idle.collect()),
        ];
        both.into_iter().flatten().collect()
    }

    fn members(&self) -> impl Iterator<Item = &'i Device> {
        self.devices.iter().filter_map(|bdf| self.inventory.devices.get(bdf))
    }

    /// The members of a device's group that are not requested.
    fn other_members(
        &self,
        device: &Device,
        which: MemberFilter,
    ) -> impl Iterator<Item = &'i Device> {
        let group = self.inventory.group(device);
        // Most calls ask only for the few blocking members. A group can have thousands of others.
        let (blocking, all) = match which {
            MemberFilter::Blocking => (group.map(|group| &group.blocking), None),
            MemberFilter::All => (None, group.map(|group| &group.members)),
        };
        let members = blocking.into_iter().flatten().chain(all.into_iter().flatten());
        let outside = members.filter(|bdf| !self.devices.contains(bdf));
        outside.filter_map(|bdf| self.inventory.devices.get(bdf))
    }

    /// Calls `found` for every finding about the device itself, without the other members of its group.
    fn judge_device(&self, device: &Device, found: &mut dyn FnMut(Code, &dyn Fn() -> String)) {
        let inventory = self.inventory;
        let bdf = device.bdf;
        match device.group {
            _ if !inventory.has_iommu => found(Code::NoIommu, &|| {
                "this host has no IOMMU groups: enable VT-d or AMD-Vi in the firmware, and add \
                 intel_iommu=on to the kernel command line"
                    .to_owned()
            }),
            None => found(Code::NoGroup, &|| format!("{bdf} is in no IOMMU group")),
            Some(number) => {
                if inventory.group(device).is_some_and(|group| group.is_noiommu()) {
                    found(Code::NoiommuMode, &|| {
                        format!("IOMMU group {number} exists without an IOMMU (vfio-noiommu)")
                    });
                }
            }
        }
        if device.is_bridge {
            found(Code::Nonendpoint, &|| format!("{bdf} is a bridge"));
        }
        if device.num_vfs > 0 {
            let count = device.num_vfs;
            found(Code::PfHasVfs, &|| format!("{bdf} has {count} virtual functions"));
        }
        if !device.can_reset && !device.is_bridge {
            found(Code::NoReset, &|| format!("{bdf} cannot be reset"));
        }
        if !inventory.acs_override.is_empty() {
            found(Code::AcsOverride, &|| {
                format!("the kernel command line has {}", inventory.acs_override.join(" "))
            });
        }
        self.judge_use(device, found);
    }

    /// Calls `found` for every use that the host makes of a device.
    fn judge_use(&self, device: &Device, found: &mut dyn FnMut(Code, &dyn Fn() -> String)) {
        let bdf = device.bdf;
        if let Some(class) = device.class.filter(|class| class.is_vital()) {
            found(Code::SensitiveClass, &|| {
                format!("{bdf} has class {:04x} ({})", class.pair(), device.role.as_str())
            });
        }
        // A device that is bound to VFIO no longer shows the host's console.
        if device.boot_vga && !device.on_vfio() {
            found(Code::ConsoleGpu, &|| format!("the firmware shows its console on {bdf}"));
        }
        let serves = device.class.is_some_and(|class| class.serves());
        for host_use in self.inventory.usage.uses_of(bdf) {
            let code = match host_use {
                HostUse::System(_) => Some(Code::HostDiskRoot),
                HostUse::Disk(_) => Some(Code::HostDiskMounted),
                HostUse::DefaultRoute(_) => Some(Code::HostNetDefaultRoute),
                HostUse::Monitor(_) => Some(Code::ConsoleGpu),
                HostUse::Mdev(_) => Some(Code::MdevChildren),
                HostUse::Interface(_) | HostUse::Input(_) => None,
            };
            if let Some(code) = code {
                found(code, &|| host_use.to_string());
            }
            if serves && !matches!(host_use, HostUse::Mdev(_)) {
                found(Code::SensitiveClass, &|| host_use.to_string());
            }
        }
    }
}

/// The members of a group that a call asks for.
#[derive(Debug, Clone, Copy)]
enum MemberFilter {
    /// The members whose drivers block the group.
    Blocking,
    /// All members.
    All,
}
