//! The host PCI devices of a definition.

use common::Result;
use common::system::pci::Bdf;
use common::xml::{Node, host_address};

use crate::domain::definition::parsed::Definition;

impl Definition {
    /// Returns the host devices of the domain that libvirt does not bind to VFIO itself.
    pub fn unmanaged_devices(&self) -> Vec<Bdf> {
        let unmanaged = |node: &Node<'_>| node.attr("managed").as_deref() != Some("yes");
        let hostdevs = self.root().find_all("devices/hostdev").filter(unmanaged);
        hostdevs.filter_map(|node| hostdev_address(node).ok().flatten()).collect()
    }
}

/// Returns the PCI device that a hostdev passes through; `None` for other kinds of hostdevs.
///
/// Errors: `invalid_input` for an address that cannot be parsed: it could be that of any device.
pub(crate) fn hostdev_address(node: Node<'_>) -> Result<Option<Bdf>> {
    let is_pci = node.attr("type").as_deref() == Some("pci");
    is_pci.then(|| host_address::source_pci(node)).transpose()
}

/// Returns the PCI device behind a network card or a disk; `None` for those of other types.
///
/// Errors: as for [`hostdev_address`].
/// Source: <https://libvirt.org/formatdomain.html>: interfaces of type `hostdev`, disks of type `nvme`.
pub(crate) fn device_behind(node: Node<'_>) -> Result<Option<Bdf>> {
    let is_device = matches!(node.attr("type").as_deref(), Some("hostdev" | "nvme"));
    is_device.then(|| host_address::source_pci(node)).transpose()
}
