//! Disks that guests receive, use and release.

use super::*;

#[test]
#[ignore = "needs root"]
fn data_that_a_guest_writes_is_on_the_disk_after_detach() {
    let rig = rig_for_booted_guests();
    let (device, file) = blank(&rig, "disk");
    new(&rig, "--name g --hotplug-ports 3").item();
    let console = Console::open(&rig, "g");
    console.wait_for("rig-guest: up");

    let plan = disk(&rig, &format!("attach g {device} --serial S-1 -n")).document();
    assert_eq!((&plan["dry_run"], &plan["changed"]), (&json!(true), &json!(true)));
    assert_eq!(attached(&rig, "g"), []);
    let given = disk(&rig, &format!("attach g {device} --serial S-1")).document();
    assert_eq!(given["items"], plan["items"]);
    let item = &given["items"][0];
    assert_eq!((&item["target"], &item["serial"]), (&json!("vdb"), &json!("S-1")));
    assert_eq!(item["guest_device"], "/dev/disk/by-id/virtio-S-1");
    let warnings = given["warnings"].to_string();
    for part in ["has no persistent name", "99-tdx-disk.rules", "global_filter"] {
        assert!(warnings.contains(part), "{part}: {warnings}");
    }
    assert_eq!(attached(&rig, "g"), [("vdb".into(), device.clone(), true, false)]);
    // A second attach, by the same name and by another one.
    assert_eq!(disk(&rig, &format!("attach g {device}")).document()["changed"], false);
    let link = rig.scratch().join("link");
    std::os::unix::fs::symlink(&device, &link).unwrap();
    let again = disk(&rig, &format!("attach g {}", link.display())).document();
    assert_eq!((&again["changed"], &again["items"][0]["target"]), (&json!(false), &json!("vdb")));
    let other = disk(&rig, &format!("attach g {device} --target vdc")).error(5);
    assert!(other["message"].as_str().unwrap().contains("as vdb"), "{other}");

    // The guest sees the serial number of the disk and writes it onto the disk.
    console.run(
        &rig,
        "until [ -b /dev/vdb ]; do usleep 50000; done; \
         dd if=/sys/block/vdb/serial of=/dev/vdb bs=512 conv=sync,fsync; \
         echo pattern | dd of=/dev/vdb bs=512 seek=4096 conv=sync,fsync",
    );
    // QEMU has the disk open, whatever libvirt reports.
    let check = disk(&rig, &format!("check {device}"));
    assert_eq!(blockers(&check), ["IN_USE_BY_VM"]);
    assert!(check.stdout.contains("domain 'g' uses") && check.stdout.contains("qemu"), "{check:?}");

    let gone = disk(&rig, "detach g vdb").document();
    assert_eq!((&gone["items"][0]["device"], &gone["changed"]), (&json!(device), &json!(true)));
    console.run(&rig, "while [ -e /sys/block/vdb ]; do usleep 50000; done");
    assert_eq!(text_at(&file, 0).trim(), "S-1");
    assert_eq!(text_at(&file, 4096 * 512).trim(), "pattern");
    assert_eq!(attached(&rig, "g"), []);
    for name in [device.as_str(), "vdb", "/dev/absent"] {
        let none = disk(&rig, &format!("detach g {name}")).document();
        assert_eq!(
            (&none["changed"], &none["items"][0]["action"]),
            (&json!(false), &json!("none"))
        );
    }
    assert_eq!(blockers(&disk(&rig, &format!("check {device}"))), [""; 0]);

    // A read-only disk on SCSI, which the guest finds by its serial number.
    let item =
        disk(&rig, &format!("attach g {device} --bus scsi --readonly --serial S-2")).document();
    assert_eq!(item["items"][0]["target"], "sdb");
    console.run(
        &rig,
        "until grep -q 1 /sys/block/sda/ro && grep -q S-2 /sys/block/sda/device/vpd_pg80; do usleep 50000; done",
    );
    // A disk with sectors of 4096 bytes has such sectors in the guest.
    let large = rig.scratch().join("large");
    std::fs::File::create(&large).unwrap().set_len(16 << 20).unwrap();
    let large = rig.shell(&format!("losetup -b 4096 -f --show {}", large.display()));
    let large = large.text().trim().to_owned();
    rig.release(&large);
    disk(&rig, &format!("attach g {large} --serial S-3")).document();
    console.run(
        &rig,
        "until grep -qx 4096 /sys/block/vdb/queue/logical_block_size; do usleep 50000; done; \
         echo large | dd of=/dev/vdb bs=4096 conv=sync,fsync",
    );
    disk(&rig, "detach g vdb").document();
    // The persistent definition gets the disk on the bus that the live definition uses, not on the default
    // bus.
    let other = disk(&rig, &format!("attach g {device} --readonly --persistent")).document();
    assert_eq!((&other["items"][0]["bus"], &other["changed"]), (&json!("scsi"), &json!(true)));
    assert_eq!(attached(&rig, "g"), [("sdb".into(), device.clone(), true, true)]);
    disk(&rig, &format!("detach g {device}")).document();
    assert_eq!(attached(&rig, "g"), []);
}

#[test]
#[ignore = "needs root"]
fn detach_from_a_guest_that_does_not_answer_fails_and_keeps_the_disk() {
    let rig = rig_for_booted_guests();
    let (device, _) = blank(&rig, "disk");
    new(&rig, "--name g --hotplug-ports 3").item();
    let console = Console::open(&rig, "g");
    console.wait_for("rig-guest: up");
    disk(&rig, &format!("attach g {device} --persistent")).document();
    assert_eq!(attached(&rig, "g"), [("vdb".into(), device.clone(), true, true)]);
    rig.virsh(["suspend", "g"]);
    let error = disk(&rig, "detach g vdb --timeout 7").error(5);
    assert_eq!(error["code"], "STILL_ATTACHED");
    assert_eq!(
        error["message"],
        "disk vdb is still attached to domain 'g': the guest has not answered in 7 s"
    );
    assert_eq!(
        error["applied"],
        json!(["removed vdb from the persistent definition of domain 'g'"])
    );
    assert_eq!(attached(&rig, "g"), [("vdb".into(), device.clone(), true, false)]);
    assert_eq!(blockers(&disk(&rig, &format!("check {device}"))), ["IN_USE_BY_VM"]);

    // Two commands wait; both succeed when the guest answers.
    let waiting = [(); 2].map(|()| {
        let mut command = rig.command(tools::bin("tdx-disk"));
        command.args(["detach", "g", &device, "--timeout", "60"]);
        Process::start(command, "tdx-disk")
    });
    waiting.iter().for_each(Process::wait_until_waiting);
    rig.virsh(["resume", "g"]);
    for process in waiting {
        let document = process.end().0.document();
        assert_eq!(document["items"][0]["device"], device, "{document}");
    }
    assert_eq!(attached(&rig, "g"), []);
    assert_eq!(blockers(&disk(&rig, &format!("check {device}"))), [""; 0]);
}

#[test]
#[ignore = "needs root"]
fn attach_and_detach_distinguish_the_definition_from_the_running_guest() {
    let rig = Rig::start();
    let (one, file) = blank(&rig, "one");
    let (two, _) = blank(&rig, "two");
    define(&rig, &foreign("a", PORTS));
    define(&rig, &foreign("b", PORTS));

    let off = disk(&rig, &format!("attach a {one}")).error(5);
    assert_eq!(off["message"], "domain 'a' is not running");
    assert!(off["hint"].as_str().unwrap().contains("--persistent"), "{off}");
    disk(&rig, &format!("attach absent {one}")).error(4);
    disk(&rig, "attach a /dev/absent").error(4);
    disk(&rig, "attached absent").error(4);

    // The disk is only in a persistent definition: no other domain can get the disk, by whatever name.
    disk(&rig, &format!("attach a {one} --persistent")).document();
    assert_eq!(attached(&rig, "a"), [("vdb".into(), one.clone(), false, true)]);
    assert_eq!(blockers(&disk(&rig, &format!("check {one}"))), ["IN_USE_BY_VM"]);
    rig.virsh(["start", "b"]);
    let link = rig.scratch().join("link");
    std::os::unix::fs::symlink(&one, &link).unwrap();
    let refused = disk(&rig, &format!("attach b {}", link.display())).error(5);
    assert_eq!(refused["code"], "IN_USE_BY_VM");
    assert!(refused["message"].as_str().unwrap().contains("domain 'a' uses"), "{refused}");

    // A running domain gets a disk of its persistent definition at the target of that definition.
    rig.virsh(["start", "a"]);
    rig.virsh(["suspend", "a"]);
    let taken = disk(&rig, &format!("attach a {two} --target vdb")).error(5);
    assert_eq!(taken["message"], "domain 'a' already has a disk vdb");
    assert_eq!(disk(&rig, &format!("attach a {one} --persistent")).document()["changed"], false);
    let next = disk(&rig, &format!("attach a {two} --target vdaa")).document();
    assert_eq!(
        (&next["items"][0]["target"], &next["items"][0]["config"]),
        (&json!("vdaa"), &json!(false))
    );
    // The persistent definition gets the disk that the live definition already has.
    disk(&rig, &format!("attach a {two} --persistent")).document();
    assert_eq!(attached(&rig, "a")[1], ("vdaa".into(), two.clone(), true, true));
    rig.virsh(["destroy", "a"]);
    assert_eq!(disk(&rig, "detach a vdaa").document()["changed"], true);
    assert_eq!(attached(&rig, "a"), [("vdb".into(), one.clone(), false, true)]);

    // A transient domain has no persistent definition to change.
    let file_of_xml = rig.scratch().join("transient.xml");
    std::fs::write(&file_of_xml, foreign("t", PORTS)).unwrap();
    rig.virsh(["create".as_ref(), file_of_xml.as_os_str()]);
    let transient = disk(&rig, &format!("attach t {two} --persistent")).error(5);
    assert_eq!(transient["message"], "domain 't' is transient: it has no persistent definition");
    disk(&rig, &format!("attach t {two}")).document();
    rig.virsh(["destroy", "t"]);

    // A device that no longer exists is marked, and detach removes it.
    rig.shell(&format!("losetup -d {one}")).text();
    std::fs::remove_file(file).unwrap();
    let listed = disk(&rig, "attached").document();
    assert_eq!(listed["items"][0]["source"], one);
    let gone = disk(&rig, &format!("detach a {one}")).document();
    assert_eq!((&gone["changed"], attached(&rig, "a")), (&json!(true), vec![]));
    assert_eq!(disk(&rig, "attached").document()["items"], json!([]));
}

/// `/dev/disk`, which the test creates where the machine lacks it, and removes at its end.
struct Names;

impl Drop for Names {
    fn drop(&mut self) {
        std::fs::remove_dir("/dev/disk").ok();
    }
}

/// A disk is attached by its permanent name and recognised by every other name.
#[test]
#[ignore = "needs root"]
fn attach_writes_the_most_permanent_name_into_the_definition() {
    let rig = Rig::start();
    let _names = Names;
    define(&rig, &foreign("a", PORTS));
    define(&rig, &foreign("b", PORTS));
    rig.virsh(["start", "a"]);
    rig.virsh(["start", "b"]);
    let (device, _) = blank(&rig, "disk");
    let name = device.trim_start_matches("/dev/");
    rig.shell(&format!(
        "mkdir -p /dev/disk && mount -t tmpfs none /dev/disk && cd /dev/disk && \
         mkdir by-id by-path && ln -s ../../{name} by-id/wwn-0x5000 && \
         ln -s ../../{name} by-id/ata-X_1 && ln -s ../../{name} by-path/pci-1 && \
         mkdir -p /run/udev/data && \
         printf 'S:disk/by-id/ata-X_1\\nS:disk/by-id/wwn-0x5000\\nS:disk/by-path/pci-1\\n\
         E:ID_SERIAL_SHORT=X 1/2\\nE:ID_SERIAL=X_1\\n' >/run/udev/data/b$(cat /sys/block/{name}/dev)"
    ))
    .text();
    let check = disk(&rig, "check /dev/disk/by-path/pci-1").item();
    assert_eq!((&check["device"], &check["findings"]), (&json!(device), &json!([])));
    assert_eq!(check["by_id"], "/dev/disk/by-id/wwn-0x5000");
    // An item of another disk or of another host attaches nothing; the other items are processed.
    define(&rig, &foreign("off", PORTS));
    for (key, value) in [("serial", "X 1/3"), ("host", "other")] {
        let mut item = check.clone();
        item[key] = json!(value);
        for verb in ["attach a -", "attach off - --persistent", "check -"] {
            let error = rig.pipe("tdx-disk", verb.split(' '), item.to_string()).error(5);
            assert_eq!(error["code"], "IDENTITY_CHANGED", "{error}");
            assert_eq!((attached(&rig, "a"), attached(&rig, "off")), (vec![], vec![]), "{verb}");
        }
    }
    let (second, _) = blank(&rig, "second");
    let attach = ["attach", "off", "-", "--persistent"];
    let mut items = disk(&rig, &format!("check {second}")).item().to_string();
    items += &json!({"device": device, "serial": "X 1/3"}).to_string();
    let error = rig.pipe("tdx-disk", attach, items).error(5);
    assert_eq!(error["applied"], json!([format!("attached {second} to 'off' as vdb")]), "{error}");
    // The serial number that a guest sees is not that of the disk, so this item describes the same disk.
    let own = attach.into_iter().chain(["--serial", "own"]);
    let given = rig.pipe("tdx-disk", own, check.to_string()).document();
    assert_eq!(given["items"][0]["serial"], "own", "{given:#}");
    let check_given = rig.pipe("tdx-disk", ["check", "-"], given.to_string());
    assert_eq!(blockers(&check_given), ["IN_USE_BY_VM"]);
    disk(&rig, &format!("detach off {device}")).document();

    let given = disk(&rig, "attach a /dev/disk/by-id/ata-X_1 --persistent").document();
    let item = &given["items"][0];
    assert_eq!((&item["device"], &item["source"]), (&json!(device), &check["by_id"]));
    assert_eq!(item["serial"], "X 1_2", "what libvirt does not take is not in it");
    assert!(!given["warnings"].to_string().contains("no persistent name"), "{given}");
    assert!(given["warnings"].to_string().contains("ENV{ID_SERIAL}==\\\"X_1\\\""), "{given}");
    assert!(rig.virsh(["dumpxml", "a"]).contains("<source dev='/dev/disk/by-id/wwn-0x5000'"));
    for other in [device.as_str(), "/dev/disk/by-path/pci-1", name] {
        assert_eq!(disk(&rig, &format!("attach b {other}")).error(5)["code"], "IN_USE_BY_VM");
        assert_eq!(disk(&rig, &format!("attach a {other}")).document()["changed"], false);
    }
    rig.virsh(["destroy", "a"]);
    assert_eq!(disk(&rig, &format!("detach a {device}")).document()["changed"], true);
    assert_eq!(attached(&rig, "a"), []);
}

/// 32 disks: targets continue after vdz, and the error for a guest without a free port says so.
#[test]
#[ignore = "needs root"]
fn attach_of_32_disks_continues_after_vdz_and_reports_a_lack_of_ports() {
    let rig = Rig::start();
    let more = "<controller type='scsi' model='virtio-scsi'/>";
    define(&rig, &foreign("a", more));
    rig.virsh(["start", "a"]);
    let file = |n: u32| rig.scratch().join(format!("disk{n}"));
    let devices: Vec<String> = (0..32)
        .map(|n| {
            std::fs::File::create(file(n)).unwrap().set_len(1 << 20).unwrap();
            rig.loop_device(file(n).to_str().unwrap())
        })
        .collect();
    // libvirt adds one or two ports by itself.
    let runs = devices.iter().map(|device| disk(&rig, &format!("attach a {device}")));
    let runs: Vec<_> = runs.take_while(|run| run.status == Some(0)).collect();
    assert!(runs.len() < 5, "a port for each disk");
    let left = &devices[runs.len()..];
    let full = disk(&rig, &format!("attach a {}", left[0])).error(1);
    assert!(full["hint"].as_str().unwrap().contains("use --bus scsi"), "{full}");
    let items: Vec<Value> = left.iter().map(|device| json!({ "device": device })).collect();
    let given =
        rig.pipe("tdx-disk", ["attach", "a", "-", "--bus", "scsi"], json!(items).to_string());
    assert_eq!(given.document()["items"].as_array().unwrap().len(), left.len());
    let all = attached(&rig, "a");
    assert_eq!(all.len(), devices.len());
    let mut targets: Vec<&str> = all.iter().map(|row| row.0.as_str()).collect();
    targets.retain(|target| target.starts_with("sd"));
    assert_eq!((targets[0], targets[24], targets[25]), ("sdb", "sdz", "sdaa"));
}
