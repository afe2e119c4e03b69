//! Helpers for the tests of `tdx-td`: a rig with a base image, small guests, their files.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use serde_json::Value;

use super::rig::{Rig, guest_image};
use super::tools::Run;
use super::wait::wait_for;

/// The flags of the smallest guest that boots.
pub(crate) const SMALL: [&str; 6] = ["--security", "none", "--memory", "256M", "--vcpus", "1"];

/// The directory of the pool.
pub(crate) const IMAGES: &str = "/var/lib/libvirt/images";

/// A rig whose pool has `guest.qcow2`. Guests run, but do not boot.
pub(crate) fn rig_with_base() -> Rig {
    let rig = Rig::start();
    rig.tool("tdx-pool", ["import".as_ref(), guest_image(false).as_os_str()]).document();
    rig
}

/// A rig for guests that boot. Its pool has `guest.qcow2` and `deaf.qcow2`, which ignores the power button.
pub(crate) fn rig_for_booted_guests() -> Rig {
    let rig = Rig::start_for_booted_guests();
    for deaf in [false, true] {
        rig.tool("tdx-pool", ["import".as_ref(), guest_image(deaf).as_os_str()]).document();
    }
    rig
}

/// Words of a command line, split at spaces.
pub(crate) fn words(line: &str) -> Vec<&str> {
    line.split(' ').collect()
}

/// Runs `tdx-td` with the words of `line`.
pub(crate) fn td(rig: &Rig, line: &str) -> Run {
    rig.tool("tdx-td", words(line))
}

/// Runs `tdx-td new -i guest.qcow2` for a small guest, with more words.
pub(crate) fn new(rig: &Rig, more: &str) -> Run {
    let more = words(more).into_iter().filter(|word| !word.is_empty());
    let named = more.clone().any(|word| word == "-i" || word == "--base");
    let image = if named { &[][..] } else { &["-i", "guest.qcow2"] };
    rig.tool("tdx-td", ["new"].iter().chain(image).chain(&SMALL).copied().chain(more))
}

/// The only domain of this name in `tdx-td list`.
#[track_caller]
pub(crate) fn listed(rig: &Rig, name: &str) -> Value {
    let document = td(rig, "list").document();
    let mut items = document["items"].as_array().unwrap().iter();
    items.find(|item| item["name"] == name).unwrap_or_else(|| panic!("no {name}")).clone()
}

/// Waits until a guest has booted and has an address. Returns the address.
#[track_caller]
pub(crate) fn wait_until_up(rig: &Rig, name: &str) -> String {
    wait_for("a lease", || listed(rig, name)["ip"].as_str().map(str::to_owned))
}

/// The names of the volumes in the pool, from the file system.
pub(crate) fn volumes(rig: &Rig) -> Vec<String> {
    let folder = std::fs::read_dir(rig.path(IMAGES)).unwrap();
    let mut names: Vec<String> =
        folder.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Defines a domain from XML.
#[track_caller]
pub(crate) fn define(rig: &Rig, xml: &str) {
    let file = rig.scratch().join("define.xml");
    std::fs::write(&file, xml).unwrap();
    rig.virsh(["define".as_ref(), file.as_os_str()]);
}

/// The definition of a plain domain without a disk, not created by these tools.
pub(crate) fn foreign(name: &str, more: &str) -> String {
    format!(
        "<domain type='qemu'><name>{name}</name><memory unit='MiB'>64</memory><vcpu>1</vcpu>\
         <os><type arch='x86_64' machine='q35'>hvm</type></os>\
         <devices><controller type='usb' model='none'/><memballoon model='none'/>{more}</devices>\
         </domain>"
    )
}
