//! A libvirtd with another language: exit statuses and codes are the same as with an English one.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::thread;

use serde_json::{Value, json};

use crate::support::disk::{blank, blockers, disk};
use crate::support::rig::Rig;
use crate::support::td::{define, foreign, new, rig_with_base, td};
use crate::support::tools::{Run, bin};

/// A rig whose libvirtd prints Japanese messages, for which libvirt has a translation.
fn japanese_rig() -> Rig {
    let rig = rig_with_base();
    rig.shell("echo ja >/run/rig/language").text();
    rig.libvirtd("restart");
    rig
}

/// Whether any cause of an error is in Japanese.
#[track_caller]
fn is_japanese(error: &Value) -> bool {
    let is_kana = |c: char| ('\u{3041}'..='\u{30ff}').contains(&c);
    error["causes"].to_string().chars().any(is_kana)
}

/// Runs `tdx-td` with the words of each line, simultaneously.
fn at_once(rig: &Rig, lines: &[&str]) -> Vec<Run> {
    thread::scope(|scope| {
        let runs: Vec<_> = lines.iter().map(|line| scope.spawn(|| td(rig, line))).collect();
        runs.into_iter().map(|run| run.join().unwrap()).collect()
    })
}

#[test]
#[ignore = "needs root"]
fn domain_verbs_keep_their_exit_statuses_when_libvirtd_speaks_japanese() {
    let rig = japanese_rig();
    let before = rig.state();
    let card = "<interface type='network'><source network='nosuch'/></interface>";
    define(&rig, &foreign("theirs", card));
    let error = td(&rig, "start theirs").error(4);
    assert!(is_japanese(&error), "{error}");

    assert_eq!(new(&rig, "--name a").item()["action"], "create");
    assert_eq!(new(&rig, "--name a").item()["action"], "none");
    new(&rig, "--name a --hotplug-ports 3").error(5);
    new(&rig, "--name theirs").error(5);
    assert_eq!(td(&rig, "start a").document()["changed"], false);
    assert_eq!(td(&rig, "stop a --force").item()["action"], "stop");
    assert_eq!(td(&rig, "stop a").document()["changed"], false);
    td(&rig, "start absent").error(4);

    // Several commands create one domain: one succeeds, and the others find the domain or its creation.
    let (small, large) = ("--memory 256M", "--memory 300M");
    let line =
        |memory: &str| format!("new -i guest.qcow2 --name x --security none --vcpus 1 {memory}");
    for _ in 0..3 {
        let lines = [line(small), line(large), line(small), line(large)];
        let runs = at_once(&rig, &lines.each_ref().map(String::as_str));
        let made = runs.iter().filter(|run| run.status == Some(0));
        let made = made.filter(|run| run.item()["action"] == "create").count();
        assert_eq!(made, 1, "{runs:#?}");
        for run in runs.iter().filter(|run| run.status != Some(0)) {
            assert_eq!(run.error(5)["kind"], "conflict");
        }
        td(&rig, "delete x --yes --timeout 0").item();
    }

    rig.virsh(["undefine", "theirs"]);
    td(&rig, "delete a --yes").item();
    assert_eq!(rig.state(), before);
}

/// Starts a domain while other commands keep destroying it. Returns the error, if it is a conflict.
fn start_while_destroyed(rig: &Rig, name: &str, round: usize) -> Option<Value> {
    // libvirt mostly records the failed start. With several connections it more often records the
    // destruction.
    let destroy = format!(
        "destroy() {{ (until [ -e ended.{round} ]; do echo 'destroy {name}'; done) | virsh -q; }}
        for _ in 1 2 3 4; do destroy >/dev/null 2>&1 & done; wait"
    );
    let run = thread::scope(|scope| {
        let destroying = scope.spawn(|| rig.shell(&destroy));
        let run = td(rig, &format!("start {name}"));
        std::fs::write(rig.scratch().join(format!("ended.{round}")), "").unwrap();
        destroying.join().unwrap();
        run
    });
    match run.status {
        Some(0) => None,
        Some(5) => Some(run.error(5)),
        _ => {
            let error = run.error(1);
            let hint = error["hint"].as_str().unwrap();
            assert!(hint.contains("in dmesg on the host of the domain"), "{error}");
            assert!(hint.contains(&format!("/var/log/libvirt/qemu/{name}.log")), "{error}");
            None
        }
    }
}

#[test]
#[ignore = "needs root"]
fn start_of_a_guest_that_is_destroyed_meanwhile_is_a_conflict() {
    let rig = japanese_rig();
    define(&rig, &foreign("a", ""));
    // In the first round the domain was never destroyed before, in the second it was.
    let mut rounds = 0..120;
    for time in ["first", "second"] {
        let error = rounds.find_map(|round| start_while_destroyed(&rig, "a", round));
        let error = error.unwrap_or_else(|| panic!("{time}: libvirt never told of the end"));
        assert_eq!(
            error["message"],
            "another command stopped or deleted domain 'a' while it started"
        );
        assert!(is_japanese(&error), "{error}");
        assert_eq!(rig.virsh(["domstate", "a", "--reason"]), "shut off (destroyed)");
    }
}

#[test]
#[ignore = "needs root"]
fn start_fails_with_a_hint_when_qemu_is_killed() {
    let rig = japanese_rig();
    define(&rig, &foreign("a", ""));
    let run = thread::scope(|scope| {
        let start = scope.spawn(|| td(&rig, "start a"));
        let kill = "until pkill -KILL -f '^/usr/bin/qemu-system-x86_64 -name guest=a,'; do :; done";
        rig.shell(kill).text();
        start.join().unwrap()
    });
    let error = run.error(1);
    assert!(is_japanese(&error), "{error}");
    assert!(
        error["hint"]
            .as_str()
            .unwrap()
            .contains("look for the reason in /var/log/libvirt/qemu/a.log"),
        "{error}"
    );
}

#[test]
#[ignore = "needs root"]
fn disk_verbs_keep_their_codes_when_libvirtd_speaks_japanese() {
    let rig = japanese_rig();
    let (device, _) = blank(&rig, "disk");
    // A disk at a port that allows no unplugging.
    let ports = "<controller type='pci' model='pcie-root'/>\
        <controller type='pci' index='1' model='pcie-root-port'/>\
        <controller type='pci' index='2' model='pcie-root-port'><target hotplug='off'/></controller>";
    let fixed = format!(
        "{ports}<disk type='block'><driver name='qemu' type='raw'/><source dev='{device}'/>\
         <target dev='vdb' bus='virtio'/><address type='pci' bus='0x02' slot='0x00'/></disk>"
    );
    define(&rig, &foreign("fixed", &fixed));
    rig.virsh(["start", "fixed"]);
    let error = disk(&rig, "detach fixed vdb").error(5);
    assert_eq!(error["code"], "GUEST_REFUSED");
    assert!(is_japanese(&error), "{error}");
    assert_eq!(blockers(&disk(&rig, &format!("check {device}"))), ["IN_USE_BY_VM"]);

    // The guest stays in its firmware and does not answer; QEMU refuses a second request.
    let (other, _) = blank(&rig, "other");
    define(&rig, &foreign("deaf", &ports.replace("<target hotplug='off'/>", "")));
    rig.virsh(["start", "deaf"]);
    rig.virsh(["suspend", "deaf"]);
    assert_eq!(disk(&rig, &format!("attach deaf {other}")).item()["action"], "attach");
    assert_eq!(disk(&rig, &format!("attach deaf {other}")).item()["action"], "none");
    assert_eq!(disk(&rig, &format!("attach deaf {device}")).error(5)["code"], "IN_USE_BY_VM");
    for _ in 0..2 {
        let error = disk(&rig, "detach deaf vdb --timeout 1").error(5);
        assert_eq!(error["code"], "STILL_ATTACHED");
    }
    // No port is free.
    let more: Vec<String> = (0..4).map(|n| blank(&rig, &format!("more{n}")).0).collect();
    let runs = more.iter().map(|device| disk(&rig, &format!("attach deaf {device}")));
    let full = runs.into_iter().find(|run| run.status != Some(0)).unwrap().error(1);
    assert!(full["hint"].as_str().unwrap().contains("use --bus scsi"), "{full}");
    assert!(is_japanese(&full), "{full}");
    rig.virsh(["destroy", "deaf"]);
    rig.virsh(["destroy", "fixed"]);
    assert_eq!(blockers(&disk(&rig, &format!("check {other}"))), [""; 0]);
}

#[test]
#[ignore = "needs root"]
fn pool_verbs_and_connections_keep_exit_statuses_when_libvirtd_speaks_japanese() {
    let rig = japanese_rig();
    let pool = |line: &str| rig.tool("tdx-pool", line.split(' '));
    let folder = rig.scratch().join("pool");
    let ensure = format!("ensure --pool p --path {}", folder.display());
    assert_eq!(pool(&ensure).document()["changed"], true);
    assert_eq!(pool(&ensure).document()["changed"], false);
    pool("ensure --pool p --path /var/lib/libvirt/other").error(5);
    rig.virsh(["pool-destroy", "p"]);
    assert_eq!(pool("volumes --pool p").error(5)["kind"], "conflict");
    new(&rig, "--name a").item();
    pool("delete guest.qcow2 --yes").error(5);
    assert_eq!(pool("delete absent.qcow2 --yes").document()["changed"], false);
    let template = rig.scratch().join("t.xml");
    std::fs::write(&template, foreign("t", "<nosuch/>")).unwrap();
    let render = format!("new -i guest.qcow2 --name t -t {}", template.display());
    td(&rig, &render).error(3);
    td(&rig, "delete a --yes --timeout 0").item();

    // A user who may not connect, recognised by the error number of connect(2).
    let tool = bin("tdx-td");
    let line = format!(
        "cp {} tool && setpriv --reuid 65534 --regid 65534 --clear-groups \
         ./tool list -c qemu:///system",
        tool.display()
    );
    assert_eq!(rig.shell(&line).error(7)["kind"], json!("permission"));
    rig.libvirtd("stop");
    td(&rig, "list").error(6);
}
