//! Kills, restarts of libvirtd, and simultaneous commands.

use super::*;

/// The next attach completes whatever a killed attach leaves.
#[test]
#[ignore = "needs root"]
fn attach_completes_what_a_killed_attach_has_begun() {
    let rig = Rig::start();
    define(&rig, &foreign("a", PORTS));
    let (device, _) = blank(&rig, "disk");
    let line = format!("tdx-disk attach a {device}");
    rig.virsh(["start", "a"]);
    let steps = rig.walk(&line, None).steps;
    rig.virsh(["destroy", "a"]);
    let moments = spread(&moments(&steps, false), 5);
    for (signal, moment) in
        [SIGKILL, SIGTERM].into_iter().flat_map(|signal| moments.iter().map(move |at| (signal, at)))
    {
        rig.virsh(["start", "a"]);
        let walk = rig.walk(&line, Some((moment.clone(), Fate::Signal(signal))));
        assert!(walk.struck, "{signal} at {moment:?}: {walk:#?}");
        // libvirt may still process the request of the killed command.
        wait::wait_for("the next attach", || {
            (disk(&rig, &format!("attach a {device}")).status == Some(0)).then_some(())
        });
        let there = [("vdb".into(), device.clone(), true, false)];
        assert_eq!(attached(&rig, "a"), there, "{signal} at {moment:?}");
        rig.virsh(["destroy", "a"]);
        assert_eq!(blockers(&disk(&rig, &format!("check {device}"))), [""; 0]);
    }
}

#[test]
#[ignore = "needs root"]
fn two_simultaneous_attach_commands_give_the_disk_to_one_guest() {
    let rig = Rig::start();
    for name in ["a", "b"] {
        define(&rig, &foreign(name, PORTS));
        rig.virsh(["start", name]);
    }
    for round in 0..3 {
        let (device, _) = blank(&rig, &format!("disk{round}"));
        let run = |name: &str| {
            let mut command = rig.command(tools::bin("tdx-disk"));
            command.args(["attach", name, &device]);
            std::thread::spawn(move || tools::Run::of(command, b""))
        };
        let runs: Vec<_> = ["a", "b"].map(run).into_iter().map(|r| r.join().unwrap()).collect();
        let mut statuses: Vec<_> = runs.iter().map(|run| run.status).collect();
        statuses.sort();
        assert_eq!(statuses, [Some(0), Some(5)], "{runs:#?}");
        let loser = runs.iter().find(|run| run.status == Some(5)).unwrap();
        assert_eq!(loser.error(5)["code"], "IN_USE_BY_VM");
        let all = disk(&rig, "attached").document();
        assert_eq!(all["items"].as_array().unwrap().len(), 1, "{all}");
        for name in ["a", "b"] {
            rig.virsh(["destroy", name]);
            rig.virsh(["start", name]);
        }
    }
}

#[test]
#[ignore = "needs root"]
fn attach_and_detach_report_the_true_state_after_libvirtd_restarts() {
    let rig = Rig::start();
    let (device, _) = blank(&rig, "disk");
    define(&rig, &foreign("a", &format!("{PORTS}<controller type='scsi' model='virtio-scsi'/>")));
    rig.virsh(["start", "a"]);
    disk(&rig, &format!("attach a {device}")).document();
    let restart = || {
        rig.libvirtd("kill");
        rig.libvirtd("start");
    };
    let detach = format!("tdx-disk detach a {device} --timeout 12");
    let step = "libvirt: virDomainDetachDeviceFlags".to_owned();
    let walk = rig.walk_beside(&detach, Moment { step, nth: 1, after: false }, &restart);
    assert!(walk.struck, "{walk:#?}");
    // The guest stays in its firmware and does not release the disk.
    assert_eq!(walk.run.error(5)["code"], "STILL_ATTACHED", "{walk:#?}");
    assert_eq!(attached(&rig, "a").len(), 1);

    // libvirtd is killed during an attach: at its first and last answer, and at two between them.
    let attach = |device: &str| format!("tdx-disk attach a {device} --bus scsi");
    let steps = rig.walk(&attach(&blank(&rig, "watched").0), None).steps;
    let mut asked = moments(&steps, true);
    asked.retain(|moment| moment.step.starts_with("libvirt: "));
    for (number, moment) in spread(&asked, 4).into_iter().enumerate() {
        let (device, _) = blank(&rig, &format!("disk{number}"));
        let when = format!("{moment:?}");
        let walk = rig.walk_beside(&attach(&device), moment, &restart);
        let is_there = attached(&rig, "a").iter().any(|row| row.1 == device);
        assert_eq!(
            (walk.struck, walk.run.status == Some(0)),
            (true, is_there),
            "{when}: {walk:#?}"
        );
    }
}
