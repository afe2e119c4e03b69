//! Disks that are in use, and invalid arguments.

use super::*;

#[test]
#[ignore = "needs root"]
fn attach_refuses_a_disk_that_an_image_of_a_defined_guest_needs() {
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
    // An image on a whole disk, which needs another disk.
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
        assert!(refused["message"].as_str().unwrap().contains("domain 'a' uses"), "{refused}");
    }
    assert_eq!(attached(&rig, "b"), []);
}

/// Signatures of members of arrays, pools and other formats, each at the offset that its format uses.
#[test]
#[ignore = "needs root"]
fn attach_refuses_a_disk_with_a_signature_unless_forced() {
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
    // `--force` works only with the code of the finding, and only if the user confirms it.
    write(&file, members[0].1, members[0].2);
    disk(&rig, &format!("attach a {device} --force SYSTEM_DISK --yes")).error(2);
    disk(&rig, &format!("attach a {device} --force SIGNATURE")).error(5);
    disk(&rig, &format!("attach a {device} --force OPEN_FDS --yes")).error(5);
    let forced = disk(&rig, &format!("attach a {device} --force SIGNATURE --yes")).document();
    assert!(forced["warnings"].to_string().contains("SIGNATURE"), "{forced}");
}

#[test]
#[ignore = "needs root"]
fn attach_refuses_a_disk_in_use_and_states_the_remedy() {
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
    // The mount is found from another mount namespace, and the remedy says how to enter the namespace of the
    // mount.
    let outside = tools::tool("tdx-disk", ["check", &device]);
    assert_eq!(blockers(&outside), ["CLAIMED", "MOUNTED"]);
    assert!(outside.stdout.contains("nsenter -t"), "{outside:#?}");
    rig.shell(&format!("umount '{}'", point.display())).text();
    let check = disk(&rig, &format!("check {device}"));
    assert_eq!(blockers(&check), [""; 0]);
    assert!(check.stdout.contains("HAS_DATA"), "{check:#?}");

    // A program holds the disk open.
    let holder = rig.shell(&format!("sleep 1000 <{device} >/dev/null 2>&1 & echo $!"));
    wait::wait_for("the open file", || {
        (blockers(&disk(&rig, &format!("check {device}"))) == ["OPEN_FDS"]).then_some(())
    });
    rig.shell(&format!("kill {}", holder.text().trim())).text();
    wait::wait_for("its end", || {
        blockers(&disk(&rig, &format!("check {device}"))).is_empty().then_some(())
    });

    // A read-only disk is accepted only with `--readonly`.
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
fn bad_devices_flags_and_connections_have_their_own_exit_statuses() {
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
            assert_eq!(
                fails(&format!("{verb} {name}"), 3, "is not a block device")["code"],
                "NOT_BLOCK"
            );
        }
    }
    rig.shell("ln -s two one; ln -s one two; ln -s /dev/nothing dangling").text();
    fails("check one", 4, "device /dev/one not found");
    let circle = fails("check ./one", 4, "not found");
    assert!(circle["causes"].to_string().contains("symbolic links"), "{circle}");
    fails("check ./dangling", 4, "not found");
    fails("check /dev/sd*", 4, "not found");
    fails(&format!("attach a {device} --serial a'b"), 2, "invalid serial number");
    fails(&format!("attach a {device} --serial 123456789012345678901"), 2, "is too long");
    fails(
        &format!("attach a {device} --target sdb"),
        2,
        "is not a valid guest target for bus virtio",
    );
    fails(&format!("attach a {device} --force NONSENSE"), 2, "NONSENSE");
    fails(&format!("check - {device}"), 2, "'-' cannot be combined");
    rig.pipe("tdx-disk", ["check", "-"], "").error(3);
    rig.pipe("tdx-disk", ["attach", "a", "-"], r#"{"name":"a"}"#).error(3);
    assert_eq!(rig.pipe("tdx-disk", ["attach", "a", "-"], "[]").document()["items"], json!([]));
    let remote = fails(&format!("attach a {device} -c test:///default"), 4, "domain 'a' not found");
    assert_eq!(remote["kind"], "not_found");
    fails("attached -c qemu+tcp://192.0.2.1/system", 6, "cannot connect");
    // A TCP connection to this host is accepted.
    let local = disk(&rig, &format!("attach a {device} -c qemu+tcp://127.0.0.1/system"));
    assert_eq!(local.document()["items"][0]["target"], "vdb");
    disk(&rig, "attached a -c qemu+tcp://localhost/system").document();
    // A tunnel to another host has a local address, but its libvirtd has another host name than this machine.
    let line = "hostname elsewhere; exec tdx-disk attached a -c qemu+tcp://127.0.0.1/system";
    let tunnel = rig.shell(&format!("unshare --uts sh -c '{line}'")).error(6);
    assert!(tunnel["message"].as_str().unwrap().contains("is on another machine"), "{tunnel}");

    // A user without the necessary permissions gets an error, and nothing is changed.
    let nobody = |line: &str| {
        let tool = tools::bin("tdx-disk");
        rig.shell(&format!(
            "cp {} tool && setpriv --reuid 65534 --clear-groups ./tool {line}",
            tool.display()
        ))
    };
    nobody(&format!("attach a {device}")).error(7);
    nobody(&format!("check {device}")).error(7);
    // A user who cannot start processes can list the disks.
    let tool = "prlimit --nproc=1 setpriv --reuid 1 --clear-groups ./tool list --all";
    let list = rig.shell(tool).document();
    assert_eq!(list["items"][0]["attached_to"], Value::Null, "{list}");
    assert_eq!(attached(&rig, "a").len(), 1);

    // Without libvirtd, the list contains what other sources tell.
    rig.libvirtd("stop");
    let list = disk(&rig, "list --all").document();
    assert!(list["warnings"].to_string().contains("the disks of guests are unknown"), "{list}");
    fails(&format!("attach a {device}"), 6, "cannot connect");
    assert_eq!(blockers(&disk(&rig, &format!("check {device}"))), ["IN_USE_BY_VM"], "by its QEMU");
}

#[test]
#[ignore = "needs root"]
fn check_finds_a_holder_of_the_disk_that_is_named_tdx_disk() {
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
fn check_refuses_a_disk_with_more_partitions_than_are_examined() {
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
