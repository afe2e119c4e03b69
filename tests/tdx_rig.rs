//! Trust domains on a libvirt that knows them (rig 3): everything real but the encryption.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use std::fs;

use serde_json::Value;
use support::{Rig, guest_image};

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

/// The arguments that libvirt gave QEMU.
fn argv(rig: &Rig) -> Vec<String> {
    let text = fs::read_to_string(rig.path("/var/log/libvirt/qemu-argv/td1")).unwrap();
    text.lines().map(str::to_owned).collect()
}

fn launch_object(argv: &[String]) -> Value {
    let mut objects = argv.iter().filter_map(|a| serde_json::from_str::<Value>(a).ok());
    objects.find(|object| object["qom-type"] == "tdx-guest").unwrap()
}

#[test]
#[ignore = "needs root"]
fn a_trust_domain_lives_and_leaves_no_trace() {
    let rig = rig_with_image();
    let before = rig.state();
    let flags =
        ["--mr-owner", OWNER, "--td-debug", "--qgs", "/run/qgs.socket", "--wait", "ip", "--json"];
    let made = rig.tool("tdx-td", new(&flags)).document();
    let item = &made["items"][0];
    assert_eq!((&item["security"], &item["state"]), (&"tdx".into(), &"running".into()));
    assert!(item["ip"].as_str().unwrap().starts_with("192.168.122."), "{item}");
    let warnings = made["warnings"].to_string();
    assert!(warnings.contains("--td-debug") && warnings.contains("/run/qgs.socket"), "{warnings}");

    let argv = argv(&rig);
    let object = launch_object(&argv);
    assert_eq!(object["attributes"], 0x1000_0001);
    assert_eq!(object["mrowner"], OWNER_BASE64);
    assert_eq!(object["quote-generation-socket"]["path"], "/run/qgs.socket");
    assert_eq!(object.get("mrconfigid"), None);
    let machine = argv.iter().find(|a| a.contains("confidential-guest-support=lsec0")).unwrap();
    assert!(machine.contains("kernel_irqchip=split"), "{machine}");
    assert!(argv.iter().any(|a| a.contains("inteltdx")), "no TDX firmware: {argv:?}");
    assert!(!argv.iter().any(|a| a.contains("balloon")), "a balloon: {argv:?}");

    // The same again is nothing to do; other launch values are another domain.
    let again = rig.tool("tdx-td", new(&flags)).document();
    assert_eq!(again["changed"], false);
    let other = rig.tool("tdx-td", new(&["--mr-owner", OWNER])).error(5);
    assert!(other["message"].as_str().unwrap().contains("td_policy"), "{other}");

    assert_eq!(rig.tool("tdx-td", ["list"]).item()["security"], "tdx");
    assert_eq!(rig.tool("tdx-td", ["stop", "td1"]).item()["action"], "stop");
    assert_eq!(rig.tool("tdx-td", ["start", "td1"]).item()["action"], "start");
    // Deleted while it boots: the power button is pressed until the guest hears it.
    assert_eq!(rig.tool("tdx-td", ["delete", "td1", "--yes"]).item()["forced"], false);
    assert_eq!(rig.state(), before);
}

#[test]
#[ignore = "needs root"]
fn an_ordinary_guest_gets_ordinary_firmware() {
    let rig = rig_with_image();
    let flags = ["--security", "none", "--virt-type", "qemu", "--wait", "ip"];
    assert_eq!(rig.tool("tdx-td", new(&flags)).item()["security"], "none");
    let xml = rig.virsh(["dumpxml", "td1"]);
    assert!(xml.contains("<nvram"), "no firmware variables of its own: {xml}");
    assert!(!xml.contains("amdsev"), "{xml}");
    rig.tool("tdx-td", ["delete", "td1", "--yes"]).document();
}

#[test]
#[ignore = "needs root"]
fn every_missing_link_has_its_own_words() {
    let rig = rig_with_image();
    let before = rig.state();
    let refused = |says: &str| {
        let error = rig.tool("tdx-td", new(&[])).error(6);
        let message = error["message"].as_str().unwrap();
        assert!(message.contains(says), "{message:?} lacks {says:?}");
        assert!(!error["hint"].is_null(), "{error}");
    };
    fs::write(rig.path("/sys/fs/cgroup/misc.current"), "tdx 15\n").unwrap();
    refused("all 15 TDX key ids of this host are in use");
    fs::write(rig.path("/sys/fs/cgroup/misc.current"), "tdx 14\n").unwrap();
    rig.tool("tdx-td", new(&["--dry-run"])).document();

    fs::write(rig.path("/sys/module/kvm_intel/parameters/tdx"), "N\n").unwrap();
    rig.shell("rm -f /var/cache/libvirt/qemu/capabilities/*").text();
    rig.libvirtd("restart");
    refused("kvm_intel.tdx is off");
    let cpuinfo = fs::read_to_string(rig.path("/proc/cpuinfo")).unwrap();
    fs::write(rig.path("/proc/cpuinfo"), cpuinfo.replace(" tdx_host_platform", "")).unwrap();
    refused("the BIOS or the processor does not offer it");
    assert_eq!(rig.state(), before);
}

#[test]
#[ignore = "needs root"]
fn wrong_launch_values_are_refused_before_libvirt_sees_them() {
    let rig = rig_with_image();
    let before = rig.state();
    for (flags, status) in [
        (&["--mr-config-id", "00"][..], 3),
        (&["--mr-owner", &OWNER[2..]], 3),
        (&["--mr-owner-config", "not hex!"], 3),
        (&["--qgs", "relative.socket"], 2),
        (&["--sept-ve-disable", "maybe"], 2),
        (&["--virt-type", "qemu"], 2),
        (&["--security", "none", "--td-debug"], 2),
    ] {
        rig.tool("tdx-td", new(flags)).error(status);
    }
    assert_eq!(rig.state(), before);
}
