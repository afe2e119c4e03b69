//! Disks that a QEMU has open and that libvirtd has forgotten, because libvirtd was killed while it attached
//! or detached them (rig 1).

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::thread;

use serde_json::{Value, json};

use crate::support::disk::{blank, blockers, disk};
use crate::support::rig::Rig;
use crate::support::td::{define, foreign, td};
use crate::support::tools::{Run, bin};
use crate::support::wait::wait_for;

/// Devices of a domain without a boot disk.
const PORTS: &str = "<controller type='pci' model='pcie-root'/>\
    <controller type='pci' model='pcie-root-port'/><controller type='pci' model='pcie-root-port'/>\
    <controller type='pci' model='pcie-root-port'/><controller type='pci' model='pcie-root-port'/>";

/// Sends a signal to the QEMU of a domain.
#[track_caller]
fn signal(rig: &Rig, name: &str, signal: &str) {
    rig.shell(&format!("kill -{signal} $(cat /run/libvirt/qemu/{name}.pid)")).text();
}

/// Whether the QEMU of a domain has a device open.
fn is_open(rig: &Rig, name: &str, device: &str) -> bool {
    let line = format!(
        "find /proc/$(cat /run/libvirt/qemu/{name}.pid)/fd -lname {device} 2>/dev/null | grep -q ."
    );
    rig.shell(&line).status == Some(0)
}

/// Runs a command of `tdx-disk` and kills libvirtd when `is_done` says that QEMU has completed libvirtd's
/// first request.
fn kill_libvirtd_during(rig: &Rig, name: &str, line: &str, is_done: impl Fn() -> bool) -> Run {
    signal(rig, name, "STOP");
    let mut command = rig.command(bin("tdx-disk"));
    command.args(line.split(' '));
    let running = thread::spawn(move || Run::of(command, b""));
    wait_for("a command to QEMU", || {
        rig.shell(&format!("virsh domcontrol {name}")).stdout.starts_with("occupied").then_some(())
    });
    rig.shell("kill -STOP $(cat /run/libvirtd.pid)").text();
    signal(rig, name, "CONT");
    wait_for("QEMU's part", || is_done().then_some(()));
    rig.libvirtd("kill");
    rig.libvirtd("start");
    running.join().unwrap()
}

/// The row of a device in `tdx-disk list --all`.
#[track_caller]
fn listed(rig: &Rig, device: &str) -> Value {
    let list = disk(rig, "list --all").document();
    let mut items = list["items"].as_array().unwrap().iter();
    items.find(|item| item["device"] == device).unwrap().clone()
}

#[test]
#[ignore = "needs root"]
fn detach_refuses_a_disk_that_libvirtd_forgot_during_attach() {
    let rig = Rig::start();
    let (device, _) = blank(&rig, "disk");
    for name in ["a", "b"] {
        define(&rig, &foreign(name, PORTS));
        rig.virsh(["start", name]);
    }
    let line = format!("attach a {device}");
    let attach = kill_libvirtd_during(&rig, "a", &line, || is_open(&rig, "a", &device));
    let error = attach.error(attach.status.unwrap());
    assert!(error["left_behind"].to_string().contains(&device), "{error}");

    let open = format!(
        "(qemu-system-x86), has {device} open, but {device} is not in the live definition of the domain"
    );
    for line in [
        format!("detach a {device}"),
        format!("detach a {device} --dry-run"),
        "detach a vdb".to_owned(),
        format!("detach b {device}"),
    ] {
        let error = disk(&rig, &line).error(5);
        assert_eq!(error["code"], "IN_USE_BY_VM", "{line}");
        assert!(error["message"].as_str().unwrap().contains(&open), "{line}: {error}");
        assert!(error["hint"].as_str().unwrap().ends_with("tdx-td stop a"), "{line}: {error}");
    }
    let attached = disk(&rig, "attached a").document();
    assert_eq!(attached["items"], json!([]));
    assert!(attached["warnings"][0].as_str().unwrap().contains(&open), "{attached}");
    assert_eq!(disk(&rig, "attached").document()["warnings"], attached["warnings"]);
    assert_eq!(disk(&rig, "attached b").document()["warnings"], json!([]));
    let row = listed(&rig, &device);
    assert_eq!(
        (&row["available"], &row["in_use"][0]["code"]),
        (&json!(false), &json!("IN_USE_BY_VM"))
    );
    assert_eq!(blockers(&disk(&rig, &format!("check {device}"))), ["IN_USE_BY_VM"]);
    for name in ["a", "b"] {
        let error = disk(&rig, &format!("attach {name} {device}")).error(5);
        assert_eq!(error["code"], "IN_USE_BY_VM", "{name}");
    }

    // The persistent definition has the disk, the live definition lacks it.
    let xml = format!(
        "<disk type='block'><source dev='{device}'/><target dev='vdb' bus='virtio'/></disk>"
    );
    std::fs::write(rig.scratch().join("disk.xml"), xml).unwrap();
    rig.virsh(["attach-device", "a", "disk.xml", "--config"]);
    let error = disk(&rig, &format!("detach a {device}")).error(5);
    assert_eq!(error["code"], "IN_USE_BY_VM");
    assert_eq!(
        error["applied"],
        json!(["removed vdb from the persistent definition of domain 'a'"])
    );

    td(&rig, "stop a --force").item();
    let none = disk(&rig, &format!("detach a {device}")).document();
    assert_eq!((&none["changed"], none["warnings"].as_array().unwrap().len()), (&json!(false), 1));
    assert_eq!(blockers(&disk(&rig, &format!("check {device}"))), [""; 0]);
    assert_eq!(listed(&rig, &device)["available"], true);
}

#[test]
#[ignore = "needs root"]
fn detach_reports_the_true_state_if_libvirtd_is_killed_during_it() {
    let rig = Rig::start();
    define(&rig, &foreign("a", &format!("{PORTS}<controller type='scsi' model='virtio-scsi'/>")));
    rig.virsh(["start", "a"]);
    let (device, _) = blank(&rig, "disk");
    disk(&rig, &format!("attach a {device} --bus scsi")).document();
    let run = kill_libvirtd_during(&rig, "a", &format!("detach a {device} --timeout 5"), || true);
    match run.status {
        Some(0) => assert!(!is_open(&rig, "a", &device), "{run:#?}"),
        _ => assert!(
            ["STILL_ATTACHED", "IN_USE_BY_VM"].contains(&run.error(5)["code"].as_str().unwrap())
        ),
    }
}

#[test]
#[ignore = "needs root"]
fn detach_from_the_wrong_domain_names_the_domain_that_has_the_disk() {
    let rig = Rig::start();
    let (device, _) = blank(&rig, "disk");
    for name in ["a", "b"] {
        define(&rig, &foreign(name, PORTS));
        rig.virsh(["start", name]);
    }
    disk(&rig, &format!("attach a {device}")).document();
    let none = disk(&rig, &format!("detach b {device}")).document();
    assert_eq!((&none["changed"], &none["items"][0]["action"]), (&json!(false), &json!("none")));
    let has = format!("domain 'a' still uses {device}");
    assert!(none["warnings"].as_array().unwrap().contains(&json!(has)), "{none}");
}
