//! The uses that the host makes of devices.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use common::system::pci::Bdf;

/// A use that the host makes of a PCI device, or of a disk, interface or the like behind it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum HostUse {
    /// The device has a file system that the host itself needs, such as root or boot, or swap space.
    System(String),
    /// The device has a mounted file system, or backs a mapping or an array.
    Disk(String),
    /// The default route uses this network interface of the device.
    DefaultRoute(String),
    /// The host has an address on a network interface of the device, or the interface is part of another one.
    Interface(String),
    /// An input device, such as a keyboard or a mouse, is connected.
    Input(String),
    /// A monitor is connected.
    Monitor(String),
    /// A mediated device was created on the device.
    Mdev(String),
}

impl HostUse {
    /// Whether the host uses a disk of the device.
    pub fn is_disk(&self) -> bool {
        matches!(self, Self::System(_) | Self::Disk(_))
    }
}

impl fmt::Display for HostUse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::System(what) | Self::Disk(what) | Self::Interface(what) => f.write_str(what),
            Self::DefaultRoute(interface) => write!(f, "the default route uses {interface}"),
            Self::Input(name) => write!(f, "the input device {name:?} is connected"),
            Self::Monitor(connector) => write!(f, "a monitor is connected to {connector}"),
            Self::Mdev(uuid) => write!(f, "the device has the mediated device {uuid}"),
        }
    }
}

/// The uses that the host makes of PCI devices, by device.
#[derive(Debug, Default)]
pub struct Usage {
    by_device: BTreeMap<Bdf, BTreeSet<HostUse>>,
    /// The mount points of file systems whose disks sysfs does not show (ZFS).
    pub opaque: BTreeSet<String>,
}

impl Usage {
    /// The uses of one device.
    pub fn uses_of(&self, bdf: Bdf) -> impl Iterator<Item = &HostUse> {
        self.by_device.get(&bdf).into_iter().flatten()
    }

    /// Adds one use of all these devices.
    pub(super) fn add(&mut self, devices: impl IntoIterator<Item = Bdf>, host_use: HostUse) {
        for bdf in devices {
            self.by_device.entry(bdf).or_default().insert(host_use.clone());
        }
    }
}
