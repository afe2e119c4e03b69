//! The remains of a `tdx-td new` that is stopped, killed, or fails half way: everything or nothing.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::time::Duration;

use nix::sys::signal::Signal::{self, SIGHUP, SIGINT, SIGKILL, SIGTERM};

use crate::support::rig::Rig;
use crate::support::steps::{Fate, Moment, Walk, moments, spread};
use crate::support::td::{self, SMALL, rig_with_base, td};
use crate::support::wait;

fn new_line() -> String {
    format!("tdx-td new -i guest.qcow2 --name x {}", SMALL.join(" "))
}

/// A number of moments of `tdx-td new --name x`, from its first step to its last.
fn moments_of_new(rig: &Rig, count: usize) -> Vec<Moment> {
    let walk = rig.walk(&new_line(), None);
    walk.run.document();
    td(rig, "delete x --yes --timeout 0").item();
    spread(&moments(&walk.steps, false), count)
}

/// Runs `tdx-td new --name x` and sends it a signal at a moment.
#[track_caller]
fn new_then(rig: &Rig, signal: Signal, moment: &Moment) -> Walk {
    let walk = rig.walk(&new_line(), Some((moment.clone(), Fate::Signal(signal))));
    assert!(walk.struck, "{moment:?}: {walk:#?}");
    walk
}

fn orphans(rig: &Rig) -> usize {
    let found = rig.tool("tdx-pool", ["cleanup", "--yes"]).document();
    let deleted = |item: &&serde_json::Value| item["action"] == "delete";
    found["items"].as_array().unwrap().iter().filter(deleted).count()
}

#[test]
#[ignore = "needs root"]
fn a_signal_undoes_new_or_arrives_after_its_last_step() {
    let rig = rig_with_base();
    let before = rig.state();
    let mut undone = 0;
    for (round, moment) in moments_of_new(&rig, 8).iter().enumerate() {
        let signal = [SIGTERM, SIGINT, SIGHUP][round % 3];
        let run = new_then(&rig, signal, moment);
        match td(&rig, "list").document()["items"].as_array().unwrap().as_slice() {
            [] => undone += 1,
            [domain] => {
                assert_eq!(domain["state"], "running", "{run:#?}");
                td(&rig, "delete x --yes --timeout 0").item();
            }
            more => panic!("{more:#?}"),
        }
        assert_eq!(rig.state(), before, "{signal} in round {round}: {run:#?}");
    }
    assert!(undone > 0, "the signals all came too late: {undone}");
    assert_eq!(orphans(&rig), 0);
}

#[test]
#[ignore = "needs root"]
fn delete_and_cleanup_remove_what_a_killed_new_leaves() {
    let rig = rig_with_base();
    let before = rig.state();
    for (round, moment) in moments_of_new(&rig, 8).iter().enumerate() {
        let run = new_then(&rig, SIGKILL, moment);
        // libvirtd may still process the last call.
        wait::wait_for("libvirtd idle", || {
            let list = td(&rig, "list").document();
            let busy = list["items"].as_array()?.iter().any(|item| item["state"] == "no state");
            (!busy).then_some(())
        });
        td(&rig, "delete x --yes --timeout 0").item();
        orphans(&rig);
        assert_eq!(rig.state(), before, "round {round}: {run:#?}");
    }
}

#[test]
#[ignore = "needs root"]
fn new_leaves_nothing_if_the_guest_cannot_start() {
    let rig = rig_with_base();
    let nvram = "/var/lib/libvirt/qemu/nvram";
    rig.shell(&format!("mkdir -p {nvram} && mount -t tmpfs -o size=64k,mode=0777 tmpfs {nvram}"))
        .text();
    let before = rig.state();
    let error = td::new(&rig, "--name x").error(1);
    assert!(error["message"].as_str().unwrap().contains("cannot start domain 'x'"), "{error}");
    assert_eq!(
        (error["applied"].to_string(), error["left_behind"].to_string()),
        ("[]".into(), "[]".into())
    );
    assert_eq!(rig.state(), before);
    assert_eq!(orphans(&rig), 0);
    rig.shell(&format!("umount {nvram}")).text();
    td::new(&rig, "--name x").item();
}

#[test]
#[ignore = "needs root"]
fn death_of_libvirtd_during_new_is_reported_and_can_be_repaired() {
    let rig = rig_with_base();
    // A libvirtd that is killed while it starts a QEMU forgets one of its sockets. A libvirtd that is killed
    // while it writes a definition leaves the new file beside the old one.
    let state = || {
        let state = rig.state();
        let libvirts = |line: &str| line.starts_with("qemu/channel/") || line.ends_with(".xml.new");
        let kept = state.lines().filter(|line| !libvirts(line));
        kept.collect::<Vec<_>>().join("\n")
    };
    let before = state();
    for moment in moments_of_new(&rig, 3) {
        let after = format!("{moment:?}");
        let walk = rig.walk(&new_line(), Some((moment, Fate::NoLibvirtd(Duration::ZERO))));
        assert!(walk.struck, "{after}: {walk:#?}");
        let run = walk.run;
        if run.status != Some(0) {
            let status = run.status.unwrap();
            assert!([1, 6].contains(&status), "{run:#?}");
            run.error(status);
        }
        rig.libvirtd("start");
        td(&rig, "delete x --yes --timeout 0").item();
        orphans(&rig);
        assert_eq!(state(), before, "after {after}: {run:#?}");
    }
}
