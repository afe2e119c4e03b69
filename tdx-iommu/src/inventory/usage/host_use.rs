//! A use that the host makes of a device, and all uses by device.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use common::system::pci::Bdf;

/// A use that the host makes of a PCI device, or of a disk, interface or the like behind it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum HostUse {
    /// The root, boot or another file system the host cannot do without, or its swap, is on it.
    System(String),
    /// A file system on it is mounted, or a mapping or an array made of it.
    Disk(String),
    /// The default route goes out by this interface.
    DefaultRoute(String),
    /// The host has an address on this interface, or made it part of another.
    Interface(String),
    /// A keyboard, a mouse or the like.
    Input(String),
    /// A connected monitor.
    Monitor(String),
    /// A mediated device that was made of it.
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
            Self::DefaultRoute(interface) => write!(f, "the default route goes by {interface}"),
            Self::Input(name) => write!(f, "the input device {name:?} is connected"),
            Self::Monitor(connector) => write!(f, "a monitor is connected to {connector}"),
            Self::Mdev(uuid) => write!(f, "the mediated device {uuid} was made of it"),
        }
    }
}

/// What the host uses, by the PCI device that serves it.
#[derive(Debug, Default)]
pub struct Usage {
    by_device: BTreeMap<Bdf, BTreeSet<HostUse>>,
    /// Mounted file systems whose disks sysfs does not tell: ZFS.
    pub opaque: BTreeSet<String>,
}

impl Usage {
    /// The uses of one device.
    pub fn uses_of(&self, bdf: Bdf) -> impl Iterator<Item = &HostUse> {
        self.by_device.get(&bdf).into_iter().flatten()
    }

    /// Adds one use, which is served by all of these devices.
    pub(super) fn add(&mut self, devices: impl IntoIterator<Item = Bdf>, host_use: HostUse) {
        for bdf in devices {
            self.by_device.entry(bdf).or_default().insert(host_use.clone());
        }
    }
}
