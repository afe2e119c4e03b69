//! What the host uses of its devices, as sysfs and procfs tell without a look at open files.

mod disks;
mod interfaces;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::PathBuf;

use common::Result;
use common::system::pci::Bdf;
use common::system::sysfs::{attribute, controllers, names, target};
use common::system::sysroot::Host;

/// A use of a device, or of what is behind it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Use {
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

impl Use {
    /// Whether it is a use of a disk.
    pub fn is_disk(&self) -> bool {
        matches!(self, Self::System(_) | Self::Disk(_))
    }
}

impl fmt::Display for Use {
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
    by_device: BTreeMap<Bdf, BTreeSet<Use>>,
    /// Mounted file systems whose disks sysfs does not tell: ZFS.
    pub opaque: BTreeSet<String>,
}

impl Usage {
    /// Reads the mount table, the swaps, the routes, and the classes block, net, drm and input.
    ///
    /// What cannot be read is said in `problems`.
    /// Errors: those of [`HostStorage::read`](common::system::host_storage::HostStorage::read): the host's own disks
    /// have to be known.
    pub fn read(host: &Host, problems: &mut Vec<String>) -> Result<Self> {
        let mut usage = Self::default();
        disks::read(host, &mut usage, problems)?;
        interfaces::read(host, &mut usage, problems);
        usage.read_monitors(host);
        usage.read_inputs(host);
        for uuid in names(host, "/sys/bus/mdev/devices") {
            let place = target(host, &format!("/sys/bus/mdev/devices/{uuid}"));
            usage.add(place.iter().flat_map(|p| controllers(p)), Use::Mdev(uuid));
        }
        Ok(usage)
    }

    /// The uses of one device.
    pub fn of(&self, bdf: Bdf) -> impl Iterator<Item = &Use> {
        self.by_device.get(&bdf).into_iter().flatten()
    }

    fn add(&mut self, devices: impl IntoIterator<Item = Bdf>, what: Use) {
        for bdf in devices {
            self.by_device.entry(bdf).or_default().insert(what.clone());
        }
    }

    fn read_monitors(&mut self, host: &Host) {
        const FOLDER: &str = "/sys/class/drm";
        // Connectors are `card0-DP-1`; cards and render nodes have no dash.
        for name in names(host, FOLDER).into_iter().filter(|name| name.contains('-')) {
            let connector = format!("{FOLDER}/{name}");
            if attribute(host, &format!("{connector}/status")).as_deref() == Some("connected") {
                let place = target(host, &connector);
                self.add(place.iter().flat_map(|p| controllers(p)), Use::Monitor(name));
            }
        }
    }

    fn read_inputs(&mut self, host: &Host) {
        const FOLDER: &str = "/sys/class/input";
        for name in names(host, FOLDER).into_iter().filter(|name| name.starts_with("input")) {
            let input = format!("{FOLDER}/{name}");
            let on_usb = |path: &PathBuf| path.to_string_lossy().contains("/usb");
            if let Some(path) = target(host, &input).filter(on_usb) {
                let name = attribute(host, &format!("{input}/name")).unwrap_or(name);
                self.add(controllers(&path), Use::Input(name));
            }
        }
    }
}

/// The disks that stand on one of these devices, directly or by what they are made of.
pub fn disks_of(host: &Host, devices: &BTreeSet<Bdf>) -> Vec<(Bdf, String)> {
    disks::disks_of(host, devices)
}
