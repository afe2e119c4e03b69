//! Reads the machine's PCI devices and IOMMU groups, and what the host uses of them.

pub mod class;
pub mod config_space;
pub mod device;
pub(crate) mod id_syntax;
pub mod identity;
pub mod named_devices;
pub mod path;
pub mod pci_ids;
pub mod role;
mod sysfs;
pub mod usage;

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use common::cli::log;
use common::system::pci::Bdf;
use common::system::sysroot::Host;
use common::{Error, IoContext, Result};

use crate::inventory::device::Device;
use crate::inventory::role::Role;
use crate::inventory::usage::host_use::Usage;

const DEVICES: &str = "/sys/bus/pci/devices";
const GROUPS: &str = "/sys/kernel/iommu_groups";

/// The PCI devices and IOMMU groups of the machine, and what the host uses of them.
#[derive(Debug, Default)]
pub struct Inventory {
    /// Every PCI device.
    pub devices: BTreeMap<Bdf, Device>,
    /// The IOMMU groups that have PCI devices.
    pub groups: BTreeMap<u32, Group>,
    /// Whether the kernel has any IOMMU group at all.
    pub has_iommu: bool,
    /// The parameters of the kernel command line that change ACS.
    pub acs_override: Vec<String>,
    /// What the host uses.
    pub usage: Usage,
    /// Messages about facts that could not be read or parsed.
    pub problems: Vec<String>,
}

/// An IOMMU group.
///
/// Source: Linux `Documentation/ABI/testing/sysfs-kernel-iommu_groups`.
#[derive(Debug, Default)]
pub struct Group {
    /// The PCI devices of the group.
    pub members: BTreeSet<Bdf>,
    /// The devices whose drivers prevent that other devices of the group are given to a guest.
    pub blocking: Vec<Bdf>,
    /// The name of the group, if it has one.
    pub name: Option<String>,
}

impl Group {
    /// Whether the kernel created the group without an IOMMU.
    ///
    /// Source: Linux `drivers/vfio/group.c`, which names such groups.
    pub fn is_noiommu(&self) -> bool {
        self.name.as_deref() == Some("vfio-noiommu")
    }
}

impl Inventory {
    /// Reads sysfs, the mount table, swaps, routes and the kernel command line. Open files are not read.
    ///
    /// A device that is removed during the read is left out. Attributes that cannot be read are unknown.
    /// Errors: `not_found` when sysfs is absent; `unsupported` when `/proc` lists no mounts; `permission` or `io` when
    /// they cannot be read.
    pub fn read(host: &Host) -> Result<Self> {
        if !host.has("/sys") {
            let sys = host.path("/sys");
            return Err(Error::not_found(format!("directory {} not found", sys.display()))
                .hint("pass --sysroot a directory that contains sys and proc"));
        }
        let mut inventory = Self::default();
        inventory.read_devices(host)?;
        inventory.assign_gpu_roles();
        inventory.read_groups(host)?;
        let command_line = host.read("/proc/cmdline")?.unwrap_or_default();
        inventory.acs_override = acs_override(&command_line);
        inventory.usage = usage::read(host, &mut inventory.problems)?;
        inventory.problems.sort_unstable();
        log::detail(format_args!("found {} PCI devices", inventory.devices.len()));
        Ok(inventory)
    }

    /// The device at a PCI address.
    ///
    /// Errors: `not_found` when no device has the address.
    pub fn device(&self, bdf: Bdf) -> Result<&Device> {
        self.devices.get(&bdf).ok_or_else(|| {
            Error::not_found(format!("PCI device {bdf} not found"))
                .hint("to see all devices, run tdx-iommu scan")
        })
    }

    /// Wakes the given devices that are in power state D3cold, and reads the attributes that they did not show.
    ///
    /// Only for verbs that compare a device with a record, not for verbs that list devices.
    pub fn wake(&mut self, host: &Host, devices: impl IntoIterator<Item = Bdf>) {
        let folder = host.path(DEVICES);
        for bdf in devices {
            if let Some(device) = self.devices.get_mut(&bdf).filter(|device| device.asleep) {
                log::step(format_args!("wake {bdf} from power state D3cold"));
                device.wake(&folder);
            }
        }
    }

    /// The device at `bdf`, and the devices that are given to a guest together with it: the other functions of its
    /// slot, except bridges. A virtual function is given to a guest alone.
    pub fn slot(&self, bdf: Bdf) -> impl Iterator<Item = &Device> {
        let first = Bdf { function: 0, ..bdf };
        let last = Bdf { function: 7, ..bdf };
        let alone = self.devices.get(&bdf).is_none_or(|d| d.is_bridge || d.physfn.is_some());
        let goes_along = move |device: &&Device| {
            device.bdf == bdf || !(alone || device.is_bridge || device.physfn.is_some())
        };
        self.devices.range(first..=last).map(|(_, device)| device).filter(goes_along)
    }

    /// Warnings about the whole machine.
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = self.problems.clone();
        if !self.acs_override.is_empty() {
            warnings.push(format!(
                "the kernel command line has {}: IOMMU groups may claim isolation that the hardware \
                 does not provide",
                self.acs_override.join(" ")
            ));
        }
        if let Some(point) = self.usage.opaque.first() {
            warnings.push(format!(
                "{point} is on ZFS: only tdx-iommu check finds the disks that back it"
            ));
        }
        warnings
    }

    /// The IOMMU group of a device.
    pub fn group(&self, device: &Device) -> Option<&Group> {
        self.groups.get(&device.group?)
    }

    fn read_devices(&mut self, host: &Host) -> Result<()> {
        let folder = host.path(DEVICES);
        let entries = match std::fs::read_dir(&folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            entries => entries.at("read", &folder)?,
        };
        for entry in entries {
            let name = entry.at("read", &folder)?.file_name();
            let Some(bdf) = name.to_str().and_then(|name| name.parse().ok()) else {
                self.problems.push(format!("{DEVICES}/{} is not a PCI device", name.display()));
                continue;
            };
            if let Some(device) = Device::read(&folder, bdf, &mut self.problems) {
                self.devices.insert(bdf, device);
            }
        }
        Ok(())
    }

    /// Sets the roles of functions that share their slot with a GPU.
    fn assign_gpu_roles(&mut self) {
        let slot = |bdf: &Bdf| (bdf.domain, bdf.bus, bdf.device);
        let is_gpu = |device: &&Device| device.role == Role::Gpu;
        let slots: BTreeSet<_> =
            self.devices.values().filter(is_gpu).map(|device| slot(&device.bdf)).collect();
        for device in self.devices.values_mut() {
            if slots.contains(&slot(&device.bdf)) {
                device.role = device.role.beside_gpu(device.class);
            }
        }
    }

    fn read_groups(&mut self, host: &Host) -> Result<()> {
        let folder = host.path(GROUPS);
        self.has_iommu = match std::fs::read_dir(&folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => false,
            entries => entries.at("read", &folder)?.next().is_some(),
        };
        for device in self.devices.values() {
            let Some(number) = device.group else { continue };
            let group = self.groups.entry(number).or_insert_with(|| Group {
                name: attribute(&folder.join(number.to_string()).join("name")),
                ..Group::default()
            });
            group.members.insert(device.bdf);
            if device.blocks_group() {
                group.blocking.push(device.bdf);
            }
        }
        Ok(())
    }
}

/// The translation mode of the IOMMU for a group: `DMA`, `DMA-FQ`, `identity`, …
pub(crate) fn group_type(host: &Host, number: u32) -> Option<String> {
    attribute(&host.path(format!("{GROUPS}/{number}/type")))
}

fn attribute(path: &std::path::Path) -> Option<String> {
    Some(std::fs::read_to_string(path).ok()?.trim_end().to_owned())
}

/// The kernel parameters that claim ACS for hardware without it, or that disable its redirection.
///
/// Source: Linux `Documentation/admin-guide/kernel-parameters.txt`, `pci=`; the out-of-tree patch that
/// knows `pcie_acs_override=`.
fn acs_override(command_line: &str) -> Vec<String> {
    let changes = |word: &&str| {
        word.starts_with("pcie_acs_override=")
            || word.strip_prefix("pci=").is_some_and(|options| {
                options.split([',', ';']).any(|option| {
                    option.starts_with("config_acs=") || option.starts_with("disable_acs_redir=")
                })
            })
    };
    command_line.split_whitespace().filter(changes).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_parameters_that_change_acs_are_found() {
        let line = "root=/dev/sda1 pcie_acs_override=downstream,multifunction quiet \
            pci=noaer,config_acs=10x@pci:0:0 pci=realloc pci=disable_acs_redir=0000:00:01.0";
        let words = acs_override(line);
        assert_eq!(words.len(), 3, "{words:?}");
        assert_eq!(acs_override("pci=noacs acs=1 xpcie_acs_override=downstream"), [""; 0]);
    }
}
