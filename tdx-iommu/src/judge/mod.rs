//! What keeps devices from being given to a guest. Pure: all reading is done before.
//!
//! An IOMMU group is what the kernel gives away as a whole; whoever asks for a device asks for its
//! slot, and the rest of the group has to be out of the way.
//! Source: Linux `Documentation/driver-api/vfio.rst`; `drivers/vfio/pci/vfio_pci_core.c` refuses what is
//! no endpoint and what has virtual functions; `iommu_device_use_default_domain()` what blocks a group.

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

/// Something that stands in the way, or is worth knowing.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    /// Which device was asked for.
    pub bdf: Bdf,
    /// What it is.
    pub code: Code,
    /// What was seen, in one clause that names what is at fault.
    pub message: String,
}

/// What is asked for: devices that are to go to one guest, together.
#[derive(Debug)]
pub struct Request<'i> {
    inventory: &'i Inventory,
    devices: BTreeSet<Bdf>,
}

impl<'i> Request<'i> {
    /// A request for these devices and what goes along with each, see [`Inventory::slot`].
    pub fn new(inventory: &'i Inventory, named: impl IntoIterator<Item = Bdf>) -> Self {
        let slots = named.into_iter().flat_map(|bdf| inventory.slot(bdf).map(|d| d.bdf));
        Self { inventory, devices: slots.collect() }
    }

    /// A request for these devices and no others, whatever else is in their slots.
    pub fn exactly(inventory: &'i Inventory, devices: BTreeSet<Bdf>) -> Self {
        Self { inventory, devices }
    }

    /// The addresses of all devices that are asked for.
    pub fn devices(&self) -> &BTreeSet<Bdf> {
        &self.devices
    }

    /// The blockers of the request, each once: what is refused, or done only when forced.
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

    /// All there is to say of the request, notes included, sorted by device and code.
    pub fn findings(&self) -> Vec<Finding> {
        let mut findings = Vec::new();
        // What is said of a group, once for all that are asked for of it.
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

    /// Findings about the members of a device's group that are not asked for.
    fn judge_other_members(&self, device: &Device, number: u32) -> Vec<(Code, String)> {
        let drives = |device: &Device| {
            format!("{} drives {}", device.driver.as_deref().unwrap_or_default(), device.bdf)
        };
        let blocking = self.other_members(device, MemberFilter::Blocking).map(drives);
        let others = self.other_members(device, MemberFilter::All);
        let idle = others.filter(|other| !other.is_bridge && !other.blocks_group());
        let idle = idle.map(|other| other.bdf.to_string());
        let finding = |code, names: Vec<String>| {
            let message = format!("group {number} has more in it: {}", list_first(&names));
            (!names.is_empty()).then_some((code, message))
        };
        let both = [
            finding(Code::HostDriver, blocking.collect()),
            finding(Code::UnlistedMember, idle.collect()),
        ];
        both.into_iter().flatten().collect()
    }

    fn members(&self) -> impl Iterator<Item = &'i Device> {
        self.devices.iter().filter_map(|bdf| self.inventory.devices.get(bdf))
    }

    /// The members of a device's group that are not asked for.
    fn other_members(
        &self,
        device: &Device,
        which: MemberFilter,
    ) -> impl Iterator<Item = &'i Device> {
        let group = self.inventory.group(device);
        // The usual question is about the few that block; a group can have thousands that do not.
        let (blocking, all) = match which {
            MemberFilter::Blocking => (group.map(|group| &group.blocking), None),
            MemberFilter::All => (None, group.map(|group| &group.members)),
        };
        let members = blocking.into_iter().flatten().chain(all.into_iter().flatten());
        let outside = members.filter(|bdf| !self.devices.contains(bdf));
        outside.filter_map(|bdf| self.inventory.devices.get(bdf))
    }

    /// Calls `found` for everything that a device is refused for, whatever else is in its group.
    fn judge_device(&self, device: &Device, found: &mut dyn FnMut(Code, &dyn Fn() -> String)) {
        let inventory = self.inventory;
        let bdf = device.bdf;
        match device.group {
            _ if !inventory.has_iommu => found(Code::NoIommu, &|| {
                "this host has no IOMMU groups: turn VT-d or AMD-Vi on in the firmware, and \
                 intel_iommu=on on the kernel command line"
                    .to_owned()
            }),
            None => found(Code::NoGroup, &|| format!("{bdf} is in no IOMMU group")),
            Some(number) => {
                if inventory.group(device).is_some_and(|group| group.is_noiommu()) {
                    found(Code::NoiommuMode, &|| format!("group {number} has no IOMMU behind it"));
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
            found(Code::NoReset, &|| format!("{bdf} has no way to be reset"));
        }
        if !inventory.acs_override.is_empty() {
            found(Code::AcsOverride, &|| {
                format!("the kernel was started with {}", inventory.acs_override.join(" "))
            });
        }
        self.judge_use(device, found);
    }

    /// Calls `found` for everything that the host uses of a device.
    fn judge_use(&self, device: &Device, found: &mut dyn FnMut(Code, &dyn Fn() -> String)) {
        let bdf = device.bdf;
        if let Some(class) = device.class.filter(|class| class.is_vital()) {
            found(Code::SensitiveClass, &|| {
                format!("{bdf} is of class {:04x} ({})", class.pair(), device.role.as_str())
            });
        }
        // The host's console was on it; what a guest shows there is the guest's.
        if device.boot_vga && !device.on_vfio() {
            found(Code::ConsoleGpu, &|| format!("the firmware's console is on {bdf}"));
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

/// Which members of a group are asked about.
#[derive(Debug, Clone, Copy)]
enum MemberFilter {
    /// Those whose drivers block it.
    Blocking,
    /// All.
    All,
}
