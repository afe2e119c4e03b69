//! `tdx-disk` against a real libvirtd with real guests (rig 1), its disks being loop devices.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use nix::sys::signal::Signal::{SIGKILL, SIGTERM};
use serde_json::{Value, json};

use crate::support::disk::{Console, blank, blockers, disk, text_at};
use crate::support::rig::Rig;
use crate::support::steps::{Fate, Moment, moments, spread};
use crate::support::td::{define, foreign, new, rig_for_booted_guests};
use crate::support::terminal::Process;
use crate::support::tools;
use crate::support::wait;

mod guest;
mod recovery;
mod refusal;
mod scripts;

/// Devices of a domain without a boot disk: the guest stays in its firmware and answers no request.
const PORTS: &str = "<controller type='pci' model='pcie-root'/>\
    <controller type='pci' model='pcie-root-port'/><controller type='pci' model='pcie-root-port'/>\
    <controller type='pci' model='pcie-root-port'/><controller type='pci' model='pcie-root-port'/>";

/// The disks of a domain: target, device, and whether the live and the persistent definition have the disk.
#[track_caller]
fn attached(rig: &Rig, name: &str) -> Vec<(String, String, bool, bool)> {
    let document = disk(rig, &format!("attached {name}")).document();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let items = document["items"].as_array().unwrap().iter();
    let row = |item: &Value| {
        (text(&item["target"]), text(&item["device"]), item["live"] == true, item["config"] == true)
    };
    items.map(row).collect()
}

fn write(file: &std::path::Path, offset: u64, bytes: &[u8]) {
    use std::os::unix::fs::FileExt;
    let file = std::fs::File::options().write(true).open(file).unwrap();
    file.write_all_at(bytes, offset).unwrap();
    file.sync_all().unwrap();
}
