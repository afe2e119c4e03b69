//! `tdx-disk` against a real libvirtd with real guests (rig 1), its disks being loop devices.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::time::Duration;

use nix::sys::signal::Signal::{SIGKILL, SIGTERM};
use serde_json::{Value, json};

use crate::support::disk::{Console, blank, blockers, disk, text_at};
use crate::support::rig::Rig;
use crate::support::steps::{Fate, Moment, moments, spread};
use crate::support::td::{define, foreign, new, rig_with_base};
use crate::support::terminal::Process;
use crate::support::tools;
use crate::support::wait;

/// Room for disks in a domain that has none to boot from: it sits in its firmware and answers nobody.
const PORTS: &str = "<controller type='pci' model='pcie-root'/>\
    <controller type='pci' model='pcie-root-port'/><controller type='pci' model='pcie-root-port'/>\
    <controller type='pci' model='pcie-root-port'/><controller type='pci' model='pcie-root-port'/>";

/// The targets, devices and halves of a domain's disks.
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

#[test]
#[ignore = "needs root"]
fn what_a_guest_writes_is_there_when_the_disk_comes_back() {
    let rig = rig_with_base(false);
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
    for part in ["has no name that stays the same", "99-tdx-disk.rules", "global_filter"] {
        assert!(warnings.contains(part), "{part}: {warnings}");
    }
    assert_eq!(attached(&rig, "g"), [("vdb".into(), device.clone(), true, false)]);
    // Again, by the same and by another name.
    assert_eq!(disk(&rig, &format!("attach g {device}")).document()["changed"], false);
    let link = rig.scratch().join("link");
    std::os::unix::fs::symlink(&device, &link).unwrap();
    let again = disk(&rig, &format!("attach g {}", link.display())).document();
    assert_eq!((&again["changed"], &again["items"][0]["target"]), (&json!(false), &json!("vdb")));
    let other = disk(&rig, &format!("attach g {device} --target vdc")).error(5);
    assert!(other["message"].as_str().unwrap().contains("as vdb"), "{other}");

    // The guest sees its serial number and writes it onto the disk.
    console.run(
        &rig,
        "until [ -b /dev/vdb ]; do usleep 50000; done; \
         dd if=/sys/block/vdb/serial of=/dev/vdb bs=512 conv=sync,fsync; \
         echo pattern | dd of=/dev/vdb bs=512 seek=4096 conv=sync,fsync",
    );
    // QEMU has it, whatever libvirt says.
    let check = disk(&rig, &format!("check {device}"));
    assert_eq!(blockers(&check), ["IN_USE_BY_VM"]);
    assert!(check.stdout.contains("domain 'g' has") && check.stdout.contains("qemu"), "{check:?}");

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

    // On SCSI, to be read only, found in the guest by its serial number.
    let item =
        disk(&rig, &format!("attach g {device} --bus scsi --readonly --serial S-2")).document();
    assert_eq!(item["items"][0]["target"], "sdb");
    console.run(
        &rig,
        "until [ -e /sys/block/sda/size ]; do usleep 50000; done; \
         grep -q 1 /sys/block/sda/ro && grep -q S-2 /sys/block/sda/device/vpd_pg80",
    );
    // A disk of 4096-byte sectors stays one in the guest.
    let large = rig.scratch().join("large");
    std::fs::File::create(&large).unwrap().set_len(16 << 20).unwrap();
    let large = rig.shell(&format!("losetup -b 4096 -f --show {}", large.display()));
    let large = large.text().trim().to_owned();
    rig.release(&large);
    disk(&rig, &format!("attach g {large} --serial S-3")).document();
    console.run(
        &rig,
        "until [ -e /sys/block/vdb/size ]; do usleep 50000; done; \
         grep -qx 4096 /sys/block/vdb/queue/logical_block_size && \
         echo large | dd of=/dev/vdb bs=4096 conv=sync,fsync",
    );
    disk(&rig, "detach g vdb").document();
    // The other half of it is on the same bus, whatever is the default.
    let other = disk(&rig, &format!("attach g {device} --readonly --persistent")).document();
    assert_eq!((&other["items"][0]["bus"], &other["changed"]), (&json!("scsi"), &json!(true)));
    assert_eq!(attached(&rig, "g"), [("sdb".into(), device.clone(), true, true)]);
    disk(&rig, &format!("detach g {device}")).document();
    assert_eq!(attached(&rig, "g"), []);
}

#[test]
#[ignore = "needs root"]
fn a_guest_that_does_not_answer_keeps_its_disk_and_nothing_else_is_claimed() {
    let rig = rig_with_base(false);
    let (device, _) = blank(&rig, "disk");
    new(&rig, "--name g --hotplug-ports 3").item();
    let console = Console::open(&rig, "g");
    console.wait_for("rig-guest: up");
    disk(&rig, &format!("attach g {device} --persistent")).document();
    assert_eq!(attached(&rig, "g"), [("vdb".into(), device.clone(), true, true)]);
    rig.virsh(["suspend", "g"]);
    let error = disk(&rig, "detach g vdb --timeout 7").error(5);
    assert_eq!(error["code"], "STILL_ATTACHED");
    assert_eq!(error["message"], "vdb is still attached to 'g': no answer in 7 s");
    assert_eq!(error["applied"], json!(["took vdb from the definition of 'g'"]));
    assert_eq!(attached(&rig, "g"), [("vdb".into(), device.clone(), true, false)]);
    assert_eq!(blockers(&disk(&rig, &format!("check {device}"))), ["IN_USE_BY_VM"]);

    // One waits, and so does another; both see the end once the guest hears.
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
fn a_disk_below_an_image_of_a_defined_guest_is_in_use() {
    let rig = Rig::start();
    let (data, _) = blank(&rig, "data");
    let (image, _) = blank(&rig, "image");
    let (extent, _) = blank(&rig, "extent");
    let (looped, file) = blank(&rig, "looped");
    let folder = rig.scratch().display().to_string();
    let create = |name: &str, data: &str| {
        let options = format!("data_file={data},data_file_raw=on");
        rig.shell(&format!("qemu-img create -q -f qcow2 -o {options} {name} 64M")).text();
    };
    create("file.qcow2", &data);
    // An image that is a whole disk itself, and needs another one.
    create(&image, &extent);
    let disk_of = |kind: &str, source: &str, target: &str| {
        format!(
            "<disk type='{kind}'><driver name='qemu' type='qcow2'/><source {source}/>\
             <target dev='{target}' bus='virtio'/></disk>"
        )
    };
    let raw = format!(
        "<disk type='file'><driver name='qemu' type='raw'/><source file='{}'/>\
         <target dev='vdd' bus='virtio'/></disk>",
        file.display()
    );
    let disks = [
        disk_of("file", &format!("file='{folder}/file.qcow2'"), "vdb"),
        disk_of("block", &format!("dev='{image}'"), "vdc"),
        raw,
        PORTS.to_owned(),
    ];
    define(&rig, &foreign("a", &disks.concat()));
    define(&rig, &foreign("b", PORTS));
    let listed = disk(&rig, "list --all").document();
    let has = |device: &str| {
        let mut items = listed["items"].as_array().unwrap().iter();
        items.find(|item| item["device"] == device).unwrap()["attached_to"].clone()
    };
    for device in [&data, &image, &looped] {
        assert_eq!(has(device), json!(["a"]), "{device}");
    }
    for device in [&data, &image, &extent, &looped] {
        let check = disk(&rig, &format!("check {device}"));
        assert!(blockers(&check).contains(&"IN_USE_BY_VM".to_owned()), "{device}");
        let refused = disk(&rig, &format!("attach b {device} --persistent")).error(5);
        assert!(refused["message"].as_str().unwrap().contains("domain 'a' has"), "{refused}");
    }
    assert_eq!(attached(&rig, "b"), []);
}

#[test]
#[ignore = "needs root"]
fn definitions_and_running_guests_are_told_apart() {
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

    // Defined only: another domain cannot have it, by whatever name.
    disk(&rig, &format!("attach a {one} --persistent")).document();
    assert_eq!(attached(&rig, "a"), [("vdb".into(), one.clone(), false, true)]);
    assert_eq!(blockers(&disk(&rig, &format!("check {one}"))), ["IN_USE_BY_VM"]);
    rig.virsh(["start", "b"]);
    let link = rig.scratch().join("link");
    std::os::unix::fs::symlink(&one, &link).unwrap();
    let refused = disk(&rig, &format!("attach b {}", link.display())).error(5);
    assert_eq!(refused["code"], "IN_USE_BY_VM");
    assert!(refused["message"].as_str().unwrap().contains("domain 'a' has"), "{refused}");

    // A running domain that is defined with it gets it where it is defined.
    rig.virsh(["start", "a"]);
    rig.virsh(["suspend", "a"]);
    let taken = disk(&rig, &format!("attach a {two} --target vdb")).error(5);
    assert_eq!(taken["message"], "domain 'a' has a disk vdb already");
    assert_eq!(disk(&rig, &format!("attach a {one} --persistent")).document()["changed"], false);
    let next = disk(&rig, &format!("attach a {two} --target vdaa")).document();
    assert_eq!(
        (&next["items"][0]["target"], &next["items"][0]["config"]),
        (&json!("vdaa"), &json!(false))
    );
    // The other half is added to the one that is there.
    disk(&rig, &format!("attach a {two} --persistent")).document();
    assert_eq!(attached(&rig, "a")[1], ("vdaa".into(), two.clone(), true, true));
    rig.virsh(["destroy", "a"]);
    assert_eq!(disk(&rig, "detach a vdaa").document()["changed"], true);
    assert_eq!(attached(&rig, "a"), [("vdb".into(), one.clone(), false, true)]);

    // Without a definition that stays there is none to change.
    let file_of_xml = rig.scratch().join("transient.xml");
    std::fs::write(&file_of_xml, foreign("t", PORTS)).unwrap();
    rig.virsh(["create".as_ref(), file_of_xml.as_os_str()]);
    let transient = disk(&rig, &format!("attach t {two} --persistent")).error(5);
    assert_eq!(transient["message"], "domain 't' has no definition that stays");
    disk(&rig, &format!("attach t {two}")).document();
    rig.virsh(["destroy", "t"]);

    // A device that has gone is flagged and can be taken out all the same.
    rig.shell(&format!("losetup -d {one}")).text();
    std::fs::remove_file(file).unwrap();
    let listed = disk(&rig, "attached").document();
    assert_eq!(listed["items"][0]["source"], one);
    let gone = disk(&rig, &format!("detach a {one}")).document();
    assert_eq!((&gone["changed"], attached(&rig, "a")), (&json!(true), vec![]));
    assert_eq!(disk(&rig, "attached").document()["items"], json!([]));
}

/// Labels that others may bring to life, written where their formats have them.
#[test]
#[ignore = "needs root"]
fn written_labels_are_refused_unless_forced() {
    let rig = Rig::start();
    define(&rig, &foreign("a", PORTS));
    rig.virsh(["start", "a"]);
    let (device, file) = blank(&rig, "disk");
    const SIZE: u64 = 64 << 20;
    let members: [(&str, u64, &[u8]); 14] = [
        ("zfs_member", 128 << 10, b"\x0c\xb1\xba\0\0\0\0\0"),
        ("zfs_member", SIZE - (128 << 10), b"\0\0\0\0\0\xba\xb1\x0c"),
        ("ceph_bluestore", 0, b"bluestore block device\n"),
        ("bcache", 4120, b"\xc6\x85\x73\xf6\x4e\x1a\x45\xca\x82\x65\xf5\x7f\x48\xba\x6d\x81"),
        ("linux_raid_member", 0, b"\xfc\x4e\x2b\xa9"),
        ("linux_raid_member", 4096, b"\xfc\x4e\x2b\xa9"),
        ("linux_raid_member", SIZE - 8192, b"\xfc\x4e\x2b\xa9"),
        ("linux_raid_member", SIZE - 65536, b"\xfc\x4e\x2b\xa9"),
        ("isw_raid_member", SIZE - 1024, b"Intel Raid ISM Cfg Sig. 1.3.00"),
        ("ddf_raid_member", SIZE - 512, b"\xde\x11\xde\x11"),
        ("drbd", SIZE - 4096 + 60, b"\x83\x74\x02\x6d"),
        ("VMFS_volume_member", 1 << 20, b"\x0d\xd0\x01\xc0"),
        ("swsuspend", 4086, b"S1SUSPEND"),
        ("LVM2_member", 512, b"LABELONE\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0LVM2 001"),
    ];
    for (name, offset, bytes) in members {
        write(&file, offset, bytes);
        let check = disk(&rig, &format!("check {device}"));
        assert_eq!(blockers(&check), ["SIGNATURE"], "{name}");
        assert!(check.stdout.contains(name), "{name}: {check:#?}");
        let refused = disk(&rig, &format!("attach a {device}")).error(5);
        assert_eq!(refused["code"], "SIGNATURE", "{name}");
        write(&file, offset, &vec![0; bytes.len()]);
        assert_eq!(blockers(&disk(&rig, &format!("check {device}"))), [""; 0], "{name}");
    }
    assert_eq!(attached(&rig, "a"), []);
    // Forced by its own code, and only where that is confirmed.
    write(&file, members[0].1, members[0].2);
    disk(&rig, &format!("attach a {device} --force SYSTEM_DISK --yes")).error(2);
    disk(&rig, &format!("attach a {device} --force SIGNATURE")).error(5);
    disk(&rig, &format!("attach a {device} --force OPEN_FDS --yes")).error(5);
    let forced = disk(&rig, &format!("attach a {device} --force SIGNATURE --yes")).document();
    assert!(forced["warnings"].to_string().contains("SIGNATURE"), "{forced}");
}

fn write(file: &std::path::Path, offset: u64, bytes: &[u8]) {
    use std::os::unix::fs::FileExt;
    let file = std::fs::File::options().write(true).open(file).unwrap();
    file.write_all_at(bytes, offset).unwrap();
    file.sync_all().unwrap();
}

#[test]
#[ignore = "needs root"]
fn what_is_used_is_refused_with_what_to_do_about_it() {
    let rig = Rig::start();
    define(&rig, &foreign("a", PORTS));
    rig.virsh(["start", "a"]);
    let (device, _) = blank(&rig, "disk");
    let other = rig.scratch().join("other");
    std::fs::File::create(&other).unwrap().set_len(16 << 20).unwrap();
    let point = rig.scratch().join("a b");
    std::fs::create_dir(&point).unwrap();
    rig.shell(&format!("mke2fs -q -F -t ext4 {device} && mount {device} '{}'", point.display()))
        .text();
    let refused = disk(&rig, &format!("attach a {device}")).error(5);
    assert_eq!(refused["code"], "MOUNTED");
    assert_eq!(refused["hint"], format!("umount '{}'", point.display()));
    let listed = disk(&rig, "list --all").document();
    let items = listed["items"].as_array().unwrap();
    let item = items.iter().find(|item| item["device"] == device).unwrap();
    assert_eq!((&item["available"], &item["type"]), (&json!(false), &json!("loop")));
    assert_eq!(item["mountpoints"], json!([point.to_str().unwrap()]));
    // Seen from another mount namespace, too, and from there the way in is told.
    let outside = tools::tool("tdx-disk", ["check", &device]);
    assert_eq!(blockers(&outside), ["CLAIMED", "MOUNTED"]);
    assert!(outside.stdout.contains("nsenter -t"), "{outside:#?}");
    rig.shell(&format!("umount '{}'", point.display())).text();
    let check = disk(&rig, &format!("check {device}"));
    assert_eq!(blockers(&check), [""; 0]);
    assert!(check.stdout.contains("HAS_DATA"), "{check:#?}");

    // Held open by a program for longer than a moment.
    let holder = rig.shell(&format!("sleep 1000 <{device} >/dev/null 2>&1 & echo $!"));
    wait::wait_for("the open file", Duration::from_secs(10), || {
        (blockers(&disk(&rig, &format!("check {device}"))) == ["OPEN_FDS"]).then_some(())
    });
    rig.shell(&format!("kill {}", holder.text().trim())).text();
    wait::wait_for("its end", Duration::from_secs(10), || {
        blockers(&disk(&rig, &format!("check {device}"))).is_empty().then_some(())
    });

    // To be read only, it goes to be read only.
    let read_only = rig.shell(&format!("losetup -r -f --show {}", other.display()));
    let device = read_only.text().trim().to_owned();
    rig.release(&device);
    let refused = disk(&rig, &format!("attach a {device}")).error(5);
    assert_eq!(refused["code"], "READ_ONLY");
    assert!(refused["hint"].as_str().unwrap().contains("--readonly"), "{refused}");
    assert_eq!(blockers(&disk(&rig, &format!("check {device} --readonly"))), [""; 0]);
    disk(&rig, &format!("attach a {device} --readonly")).document();
}

#[test]
#[ignore = "needs root"]
fn bad_input_has_its_own_exit_status() {
    let rig = Rig::start();
    define(&rig, &foreign("a", PORTS));
    rig.virsh(["start", "a"]);
    let (device, file) = blank(&rig, "disk");
    let fails = |line: &str, status: i32, says: &str| {
        let error = disk(&rig, line).error(status);
        assert!(error["message"].as_str().unwrap().contains(says), "{line}: {error}");
        error
    };
    let file = file.display();
    for name in ["/dev/null", "/tmp", &file.to_string()] {
        for verb in ["check", "attach a"] {
            assert_eq!(fails(&format!("{verb} {name}"), 3, "no block device")["code"], "NOT_BLOCK");
        }
    }
    rig.shell("ln -s two one; ln -s one two; ln -s /dev/nothing dangling").text();
    fails("check one", 4, "no device /dev/one");
    let circle = fails("check ./one", 4, "no device");
    assert!(circle["causes"].to_string().contains("symbolic links"), "{circle}");
    fails("check ./dangling", 4, "no device");
    fails("check /dev/sd*", 4, "no device");
    fails(&format!("attach a {device} --serial a'b"), 2, "is no serial number");
    fails(&format!("attach a {device} --serial 123456789012345678901"), 2, "is too long");
    fails(&format!("attach a {device} --target sdb"), 2, "is no target on virtio");
    fails(&format!("attach a {device} --force NONSENSE"), 2, "NONSENSE");
    fails(&format!("check - {device}"), 2, "- stands alone");
    rig.pipe("tdx-disk", ["check", "-"], "").error(3);
    rig.pipe("tdx-disk", ["attach", "a", "-"], r#"{"name":"a"}"#).error(3);
    assert_eq!(rig.pipe("tdx-disk", ["attach", "a", "-"], "[]").document()["items"], json!([]));
    let remote = fails(&format!("attach a {device} -c test:///default"), 4, "no domain 'a'");
    assert_eq!(remote["kind"], "not_found");
    fails("attached -c qemu+tcp://192.0.2.1/system", 6, "cannot connect");
    // By TCP, and here all the same.
    let local = disk(&rig, &format!("attach a {device} -c qemu+tcp://127.0.0.1/system"));
    assert_eq!(local.document()["items"][0]["target"], "vdb");
    disk(&rig, "attached a -c qemu+tcp://localhost/system").document();
    // A tunnel to another host looks as near: its daemon has another name than this machine.
    let line = "hostname elsewhere; exec tdx-disk attached a -c qemu+tcp://127.0.0.1/system";
    let tunnel = rig.shell(&format!("unshare --uts sh -c '{line}'")).error(6);
    assert!(tunnel["message"].as_str().unwrap().contains("is not on this machine"), "{tunnel}");

    // Someone who may do less is told so, by whom nothing is changed.
    let nobody = |line: &str| {
        let tool = tools::bin("tdx-disk");
        rig.shell(&format!(
            "cp {} tool && setpriv --reuid 65534 --clear-groups ./tool {line}",
            tool.display()
        ))
    };
    nobody(&format!("attach a {device}")).error(7);
    nobody(&format!("check {device}")).error(7);
    // Nor may this one start a process: none is needed to list.
    let tool = "prlimit --nproc=1 setpriv --reuid 1 --clear-groups ./tool list --all";
    let list = rig.shell(tool).document();
    assert_eq!(list["items"][0]["attached_to"], Value::Null, "{list}");
    assert_eq!(attached(&rig, "a").len(), 1);

    // Its daemon gone, what can be told is told.
    rig.libvirtd("stop");
    let list = disk(&rig, "list --all").document();
    assert!(list["warnings"].to_string().contains("what guests have is not known"), "{list}");
    fails(&format!("attach a {device}"), 6, "cannot connect");
    assert_eq!(blockers(&disk(&rig, &format!("check {device}"))), ["IN_USE_BY_VM"], "by its QEMU");
}

/// Under `/dev/disk`, where a machine has such a folder, or for as long as the test runs.
struct Names;

impl Drop for Names {
    fn drop(&mut self) {
        std::fs::remove_dir("/dev/disk").ok();
    }
}

/// A disk with a name of its own goes by that name, and is itself under every other.
#[test]
#[ignore = "needs root"]
fn the_name_that_lasts_is_the_one_in_the_definition() {
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
    // An item of another disk, or of another host, attaches nothing; the other items are tried.
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
    // What a guest sees is no number of the disk's, so that this item is of the same disk.
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
    assert!(!given["warnings"].to_string().contains("no name that stays"), "{given}");
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

/// 32 disks: targets go on after vdz, and a guest without a free port says so.
#[test]
#[ignore = "needs root"]
fn more_disks_than_letters() {
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
    // libvirt itself adds a port or two.
    let runs = devices.iter().map(|device| disk(&rig, &format!("attach a {device}")));
    let runs: Vec<_> = runs.take_while(|run| run.status == Some(0)).collect();
    assert!(runs.len() < 5, "a port for each disk");
    let left = &devices[runs.len()..];
    let full = disk(&rig, &format!("attach a {}", left[0])).error(1);
    assert!(full["hint"].as_str().unwrap().contains("--bus scsi needs none"), "{full}");
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

#[test]
#[ignore = "needs root"]
fn a_list_goes_into_an_attach_and_what_is_attached_into_a_check() {
    let rig = Rig::start();
    define(&rig, &foreign("a", PORTS));
    rig.virsh(["start", "a"]);
    let (device, _) = blank(&rig, "disk");
    let pick = format!("jq '.items[] | select(.available and .device==\"{device}\")'");
    let given = rig.shell(&format!("tdx-disk list --all | {pick} | tdx-disk attach a -"));
    assert_eq!(given.item()["device"], device);
    let picked = rig.shell(&format!("tdx-disk list --all | {pick}"));
    assert_eq!(picked.text(), "", "it is free no more");
    let check = rig.shell("tdx-disk attached a | tdx-disk check -");
    assert_eq!(blockers(&check), ["IN_USE_BY_VM"]);
    let names = rig.shell("tdx-disk attached a --format name");
    assert_eq!(names.text().trim(), device);
    let table = rig.shell("tdx-disk list --all --format table");
    assert!(table.text().lines().next().unwrap().starts_with("DEVICE"), "{table:#?}");
}

/// Whatever a killed attach leaves, the next one goes on from there.
#[test]
#[ignore = "needs root"]
fn a_killed_attach_is_made_good_by_the_next() {
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
        // libvirt may still be at the dead one's request.
        wait::wait_for("the next attach", Duration::from_secs(10), || {
            (disk(&rig, &format!("attach a {device}")).status == Some(0)).then_some(())
        });
        let there = [("vdb".into(), device.clone(), true, false)];
        assert_eq!(attached(&rig, "a"), there, "{signal} at {moment:?}");
        rig.virsh(["destroy", "a"]);
        assert_eq!(blockers(&disk(&rig, &format!("check {device}"))), [""; 0]);
    }
}

/// The words of the script that people have.
#[test]
#[ignore = "needs root"]
fn the_seeds_words_work() {
    let rig = Rig::start();
    define(&rig, &foreign("a", PORTS));
    let (device, _) = blank(&rig, "disk");
    let script = tools::repository().join("examples/vm-disk");
    let vm = |line: &str| rig.shell(&format!("{} {line}", script.display()));
    assert!(vm("").text().contains("disk-attach VM /dev/DEVICE [NAME]"));
    let list = vm("disk-list");
    let lines: Vec<&str> = list.text().lines().collect();
    assert_eq!(
        lines[..3],
        ["Block devices available on host:", "", "Format: NAME SIZE TYPE MOUNTPOINT MODEL"]
    );
    assert_eq!(lines[3], "─".repeat(64));
    let disks = disk(&rig, "list").document();
    let names = disks["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|item| item["device"].as_str().unwrap().strip_prefix("/dev/").unwrap().to_owned());
    let listed = lines[4..].iter().take_while(|line| !line.is_empty());
    let listed: Vec<&str> = listed.map(|line| line.split(' ').next().unwrap()).collect();
    assert_eq!(listed, names.collect::<Vec<_>>());
    assert_eq!(
        lines[lines.len() - 2..],
        [
            "WARNING: Only attach unmounted disks to avoid data corruption!",
            "Check mount status with: lsblk -f /dev/DEVICE"
        ]
    );
    let off = vm(&format!("disk-attach a {device}"));
    assert!(
        off.status == Some(5) && off.stderr.contains("Error: VM 'a' is not running"),
        "{off:#?}"
    );
    rig.virsh(["start", "a"]);
    let absent = vm("disk-attach a /dev/absent");
    assert!(absent.stderr.contains("Error: Block device not found: /dev/absent"), "{absent:#?}");
    let (whole, _) = blank(&rig, "whole");
    rig.shell(&format!("mkfs.ext2 -q {whole} && mkdir on && mount {whole} on")).text();
    let mounted = vm(&format!("disk-attach a {whole}"));
    let begins = format!(
        "Error: Device {whole} is currently mounted!\n\
         Unmount the device before attaching to VM:\n  sudo umount {whole}\n"
    );
    assert_eq!(mounted.status, Some(5), "{mounted:#?}");
    assert!(mounted.stderr.starts_with(&begins), "{mounted:#?}");
    let (parts, _) = blank(&rig, "parts");
    let part = format!("{parts}p1");
    rig.shell(&format!(
        "echo ,, | sfdisk -q {parts} && partx -u {parts} && mkfs.ext2 -q {part} && mkdir in && \
         mount {part} in"
    ))
    .text();
    let mounted = vm(&format!("disk-attach a {parts}"));
    let begins = format!(
        "Error: Device {parts} has mounted partitions:\n{part} on {}/in type ext2 (",
        rig.scratch().display()
    );
    assert!(mounted.stderr.starts_with(&begins), "{mounted:#?}");
    assert!(mounted.stderr.contains(")\nUnmount all partitions before attaching to VM\n"));
    rig.shell(&format!("umount on in; partx -d {parts}")).text();
    let busy = vm(&format!("disk-attach a {device} {}", "x".repeat(300)));
    assert!(busy.stderr.starts_with("Error: Failed to attach disk device\n"), "{busy:#?}");
    let given = vm(&format!("disk-attach a {device} storage-disk"));
    assert!(given.text().contains("attached to a as /dev/vdb"), "{given:#?}");
    assert!(given.stdout.contains("/dev/disk/by-id/virtio-storage-disk"), "{given:#?}");
    assert!(vm("disk-attached a").text().contains(&format!("vdb  {device}")));
    rig.virsh(["destroy", "a"]);
    let none = vm(&format!("disk-detach a {device}"));
    assert!(none.text().contains("a has no disk"), "{none:#?}");
    assert!(vm("disk-attached a").text().contains("none"));
}

#[test]
#[ignore = "needs root"]
fn of_two_that_want_a_disk_at_once_one_gets_it() {
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
fn a_daemon_that_restarts_meanwhile_is_waited_for() {
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
    // The guest sits in its firmware and does not let go.
    assert_eq!(walk.run.error(5)["code"], "STILL_ATTACHED", "{walk:#?}");
    assert_eq!(attached(&rig, "a").len(), 1);

    // Killed while a disk is on its way: at libvirt's first and last answer and between them.
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

#[test]
#[ignore = "needs root"]
fn a_process_is_not_left_out_for_its_name() {
    let rig = Rig::start();
    let (device, _) = blank(&rig, "one");
    rig.shell("cp \"$(command -v sleep)\" tdx-disk").text();
    let mut command = rig.command("sh");
    command.args(["-c", &format!("exec 3<{device}; exec ./tdx-disk 1000")]);
    let holder = Process::start(command, "tdx-disk");
    holder.id();
    assert_eq!(blockers(&disk(&rig, &format!("check {device}"))), ["OPEN_FDS"]);
    holder.signal(SIGKILL);
    holder.end();
    assert_eq!(blockers(&disk(&rig, &format!("check {device}"))), [""; 0]);
}

#[test]
#[ignore = "needs root"]
fn a_disk_with_more_partitions_than_are_examined_is_not_given_away() {
    let rig = Rig::start();
    let (device, file) = blank(&rig, "one");
    let file = std::fs::File::options().write(true).open(file).unwrap();
    let table = |sector: u64, first: u32, sectors: u32| {
        let mut entry = [0; 66];
        (entry[4], entry[64], entry[65]) = (0x05, 0x55, 0xaa);
        entry[8..12].copy_from_slice(&first.to_le_bytes());
        entry[12..16].copy_from_slice(&sectors.to_le_bytes());
        std::os::unix::fs::FileExt::write_all_at(&file, &entry, sector * 512 + 446).unwrap();
    };
    table(0, 64, 100_000);
    for link in 0..1000 {
        table(64 + u64::from(link), link + 1, 1);
    }
    file.sync_all().unwrap();
    let check = disk(&rig, &format!("check {device}"));
    assert_eq!(blockers(&check), ["SIGNATURE"]);
    assert!(check.stdout.contains("more than 256 partitions"), "{check:#?}");
}
