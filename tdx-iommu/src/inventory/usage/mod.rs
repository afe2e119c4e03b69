//! Finds what the host uses of its devices, from sysfs and procfs without open files.

pub mod disks;
pub mod host_use;
mod interfaces;

use std::path::PathBuf;

use common::Result;
use common::system::pci::Bdf;
use common::system::sysfs::{attribute, controllers, names, target};
use common::system::sysroot::Host;

use crate::inventory::usage::host_use::{HostUse, Usage};

/// Reads what the host uses: the mount table, the swaps, the routes, and the classes block, net, drm and
/// input.
///
/// Adds a message to `problems` for everything that cannot be read.
/// Errors: those of [`HostStorage::read`](common::system::host_storage::HostStorage::read), because the host's own
/// disks have to be known.
pub fn read(host: &Host, problems: &mut Vec<String>) -> Result<Usage> {
    let mut usage = Usage::default();
    disks::read(host, &mut usage, problems)?;
    interfaces::read(host, &mut usage, problems);
    read_monitors(host, &mut usage);
    read_inputs(host, &mut usage);
    for uuid in names(host, "/sys/bus/mdev/devices") {
        let devices = controllers_behind(host, &format!("/sys/bus/mdev/devices/{uuid}"));
        usage.add(devices, HostUse::Mdev(uuid));
    }
    Ok(usage)
}

fn read_monitors(host: &Host, usage: &mut Usage) {
    const CLASS: &str = "/sys/class/drm";
    // Connectors are `card0-DP-1`; cards and render nodes have no dash.
    for name in names(host, CLASS).into_iter().filter(|name| name.contains('-')) {
        let connector = format!("{CLASS}/{name}");
        if attribute(host, &format!("{connector}/status")).as_deref() == Some("connected") {
            usage.add(controllers_behind(host, &connector), HostUse::Monitor(name));
        }
    }
}

fn read_inputs(host: &Host, usage: &mut Usage) {
    const CLASS: &str = "/sys/class/input";
    for name in names(host, CLASS).into_iter().filter(|name| name.starts_with("input")) {
        let input = format!("{CLASS}/{name}");
        let is_on_usb = |path: &PathBuf| path.to_string_lossy().contains("/usb");
        if let Some(path) = target(host, &input).filter(is_on_usb) {
            let name = attribute(host, &format!("{input}/name")).unwrap_or(name);
            usage.add(controllers(&path), HostUse::Input(name));
        }
    }
}

/// The PCI devices that control the target of a link in sysfs.
fn controllers_behind(host: &Host, link: &str) -> Vec<Bdf> {
    target(host, link).map(|path| controllers(&path)).unwrap_or_default()
}
