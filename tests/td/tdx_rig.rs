//! Trust domains on a libvirt that supports them (rig 3): everything is real except the encryption.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::fs;

use serde_json::{Value, json};
use tdx_td::capability::{Security, VirtType};

use crate::support::firmware::{PLAIN, Request, compare};
use crate::support::odd_firmware::{Loaders, OddDirectories, compare_choices};
use crate::support::plain_guest;
use crate::support::rig::{Rig, guest_image};
use crate::support::template::{CANONICAL, canonical, without};
use crate::support::tools::{self, repository};
use crate::support::tree::{Spec, Tree};

mod definitions;
mod firmware;
mod guest;
mod measure;
mod template;

const OWNER: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f\
    202122232425262728292a2b2c2d2e2f";
const OWNER_BASE64: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8gISIjJCUmJygpKissLS4v";

fn rig_with_image() -> Rig {
    let rig = Rig::start_tdx();
    rig.tool("tdx-pool", ["import".as_ref(), guest_image(false).as_os_str()]).document();
    rig
}

fn new<'a>(more: &[&'a str]) -> Vec<&'a str> {
    let basic = ["new", "-i", "guest.qcow2", "--memory", "512M", "--vcpus", "1", "--name", "td1"];
    [&basic, more].concat()
}

/// The arguments that libvirt gave to QEMU.
fn argv(rig: &Rig) -> Vec<String> {
    argv_of(rig, "td1")
}

fn argv_of(rig: &Rig, domain: &str) -> Vec<String> {
    let text =
        fs::read_to_string(rig.path(&format!("/var/log/libvirt/qemu-argv/{domain}"))).unwrap();
    text.lines().map(str::to_owned).collect()
}

fn launch_object(argv: &[String]) -> Value {
    let mut objects = argv.iter().filter_map(|a| serde_json::from_str::<Value>(a).ok());
    objects.find(|object| object["qom-type"] == "tdx-guest").unwrap()
}

const TDX: &str = "<launchSecurity type='tdx'/>";
