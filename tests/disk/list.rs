//! `tdx-disk` on machines made of files: the properties, names and uses of disks.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use serde_json::{Value, json};

use crate::support::tools::{self, Run};
use crate::support::tree::{Spec, Tree};

const CONTROLLER: Spec<'static> =
    Spec { ids: "8086:a352", class: "010601", driver: "ahci", group: None, more: &[] };

/// A machine with a controller at `0000:00:17.0`.
fn machine() -> Tree {
    let mut tree = Tree::new();
    tree.device("0000:00", "0000:00:17.0", CONTROLLER);
    tree
}

/// Adds a disk below the controller, with attributes and its device node.
fn disk(
    tree: &Tree,
    below: &str,
    name: &str,
    number: (u32, u32),
    parts: u32,
    more: &[(&str, &str)],
) {
    tree.disk("0000:00:17.0", below, name, number, parts);
    let folder = format!("{}/{below}/{name}", tree.folder("0000:00:17.0"));
    let usual = [
        ("size", "2097152"),
        ("queue/logical_block_size", "512"),
        ("queue/physical_block_size", "4096"),
        ("queue/rotational", "0"),
    ];
    for (name, text) in usual.iter().chain(more) {
        tree.file(&format!("{folder}/{name}"), format!("{text}\n"));
    }
    tree.file(&format!("dev/{name}"), "");
}

/// Adds the record of a device in udev's database, and its links.
fn udev(tree: &Tree, name: &str, number: &str, lines: &[&str]) {
    tree.file(&format!("run/udev/data/b{number}"), lines.join("\n"));
    for link in lines.iter().filter_map(|line| line.strip_prefix("S:")) {
        tree.link(&format!("dev/{link}"), &format!("dev/{name}"));
    }
}

fn list(tree: &Tree, line: &str) -> Value {
    tree.run("tdx-disk", &format!("list {line}")).document()
}

fn item(document: &Value, device: &str) -> Value {
    let mut items = document["items"].as_array().unwrap().iter();
    items.find(|item| item["device"] == device).unwrap_or_else(|| panic!("no {device}")).clone()
}

fn codes(item: &Value) -> Vec<&str> {
    let list = item.get("in_use").or(item.get("findings")).unwrap().as_array().unwrap();
    list.iter().map(|finding| finding["code"].as_str().unwrap()).collect()
}

fn check(tree: &Tree, device: &str) -> (Run, Value) {
    let run = tree.run("tdx-disk", &format!("check {device}"));
    let document: Value = serde_json::from_str(&run.stdout).unwrap_or_else(|_| panic!("{run:#?}"));
    (run, document["items"][0].clone())
}

#[test]
fn list_shows_the_type_and_names_of_every_kind_of_disk() {
    let tree = machine();
    let sata = "ata1/host0/target0:0:0/0:0:0:0/block";
    disk(
        &tree,
        sata,
        "sda",
        (8, 0),
        0,
        &[
            ("device/model", "WDC WD40EFRX-68N"),
            ("device/type", "0"),
            ("device/state", "running"),
            ("queue/rotational", "1"),
        ],
    );
    udev(
        &tree,
        "sda",
        "8:0",
        &[
            "S:disk/by-path/pci-0000:00:17.0-ata-1",
            "S:disk/by-id/ata-WDC_WD40EFRX-68N_WD-1",
            "S:disk/by-id/wwn-0x50014ee2",
            "E:ID_SERIAL_SHORT=WD-1",
            "E:ID_WWN=0x50014ee2",
        ],
    );
    disk(
        &tree,
        "nvme/nvme0",
        "nvme0n1",
        (259, 0),
        0,
        &[
            ("device/model", "Samsung SSD   980"),
            ("device/serial", "S64D           "),
            ("device/state", "live"),
            ("wwid", "eui.0025"),
        ],
    );
    let usb = "usb1/1-1/1-1:1.0/host2/target2:0:0/2:0:0:0/block";
    disk(
        &tree,
        usb,
        "sdb",
        (8, 16),
        0,
        &[("removable", "1"), ("ro", "1"), ("device/state", "offline")],
    );
    disk(
        &tree,
        "mmc_host/mmc0/mmc0:0001/block",
        "mmcblk0",
        (179, 0),
        0,
        &[("device/name", "SC16G")],
    );
    disk(&tree, "virtio2/block", "vda", (254, 0), 0, &[("serial", "overlay")]);
    disk(&tree, "virtio3/host4/target4:0:0/4:0:0:1/block", "sdc", (8, 32), 0, &[]);
    disk(&tree, "mmc_host/mmc0/mmc0:0001/block", "mmcblk0boot0", (179, 8), 0, &[]);
    // None of these devices is a whole disk that a guest could get.
    for (name, number) in [
        ("sr0", "11:0"),
        ("zram0", "253:0"),
        ("loop0", "7:0"),
        ("dm-0", "252:0"),
        ("bcache0", "251:0"),
    ] {
        tree.stacked(name, number, &[]);
    }
    tree.stacked("loop1", "7:1", &[]);
    tree.file("sys/devices/virtual/block/loop1/size", "8\n");

    let document = list(&tree, "");
    let kinds: Vec<_> = document["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|item| (item["device"].as_str().unwrap(), item["transport"].as_str().unwrap()))
        .collect();
    assert_eq!(
        kinds,
        [
            ("/dev/mmcblk0", "mmc"),
            ("/dev/nvme0n1", "nvme"),
            ("/dev/sda", "sata"),
            ("/dev/sdb", "usb"),
            ("/dev/sdc", "scsi"),
            ("/dev/vda", "virtio"),
        ]
    );
    assert_eq!(item(&list(&tree, "--all"), "/dev/loop1")["type"], "loop");
    assert_eq!(check(&tree, "mmcblk0boot0").1["blockers"], json!(["BAD_KIND"]));
    let sda = item(&document, "/dev/sda");
    assert_eq!(sda["by_id"], "/dev/disk/by-id/wwn-0x50014ee2");
    assert_eq!((&sda["serial"], &sda["wwn"]), (&json!("WD-1"), &json!("0x50014ee2")));
    assert_eq!((&sda["rotational"], &sda["size_bytes"]), (&json!(true), &json!(1u64 << 30)));
    assert_eq!(sda["physical_sector_bytes"], 4096);
    let nvme = item(&document, "/dev/nvme0n1");
    assert_eq!((&nvme["model"], &nvme["serial"]), (&json!("Samsung SSD 980"), &json!("S64D")));
    assert_eq!((&nvme["available"], &nvme["attached_to"]), (&json!(true), &Value::Null));
    assert_eq!(codes(&item(&document, "/dev/sdb")), ["OFFLINE", "READ_ONLY"]);
    assert!(document["warnings"][0].as_str().unwrap().contains("--sysroot"), "{document}");
}

#[test]
fn list_finds_uses_of_a_disk_through_arrays_volumes_and_multipath() {
    let tree = machine();
    let below = |n: u32| format!("ata{n}/host{n}/target{n}:0:0/{n}:0:0:0/block");
    let names = ["sda", "sdb", "sdc", "sdd", "sde", "sdf", "sdba"];
    for (index, name) in (0..).zip(names) {
        disk(&tree, &below(index), name, (8, 16 * index), 2, &[]);
    }
    // The root is on a volume on an array of two partitions; another array is not mounted.
    tree.stacked("md0", "9:0", &["sda1", "sdb1"]);
    tree.stacked("dm-0", "252:0", &["md0"]);
    tree.file("sys/devices/virtual/block/dm-0/dm/name", "vg-root\n");
    tree.file("sys/devices/virtual/block/dm-0/dm/uuid", "LVM-abc\n");
    tree.stacked("dm-1", "252:1", &["sdc"]);
    tree.file("sys/devices/virtual/block/dm-1/dm/name", "mpatha\n");
    tree.file("sys/devices/virtual/block/dm-1/dm/uuid", "mpath-3600\n");
    tree.file("sys/devices/virtual/block/dm-1/size", "2097152\n");
    let sdf = format!("{}/{}/sdf", tree.folder("0000:00:17.0"), below(5));
    tree.file(&format!("{sdf}/sdf1/size"), "2048\n");
    tree.file("dev/sdf1", "");
    tree.file(
        "proc/self/mountinfo",
        "22 1 252:0 / / rw - ext4 /dev/mapper/vg-root rw\n\
         23 22 0:40 / /data rw - btrfs /dev/sdd2 rw\n\
         24 22 8:97 / /mnt/usb\\040disk rw - vfat /dev/sdba1 rw\n",
    );
    tree.file("sys/fs/btrfs/6f5c/devices/sdd2", "");
    tree.file("sys/fs/btrfs/6f5c/devices/sde", "");
    tree.file("proc/swaps", "Filename\tType\tSize\tUsed\tPriority\n/dev/sdd1 partition 8 0 -2\n");

    let document = list(&tree, "");
    let uses = |name: &str| {
        let item = item(&document, name);
        assert_eq!(item["available"], codes(&item).is_empty(), "{item}");
        codes(&item).into_iter().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(uses("/dev/sda"), ["HOLDERS", "HOLDERS", "MOUNTED", "SYSTEM_DISK"]);
    assert_eq!(uses("/dev/sdb"), uses("/dev/sda"));
    assert_eq!(uses("/dev/sdc"), ["MULTIPATH_PATH"]);
    assert_eq!(uses("/dev/dm-1"), [""; 0], "the map is what to give");
    assert_eq!(uses("/dev/sdd"), ["MOUNTED", "SWAP"]);
    assert_eq!(uses("/dev/sde"), ["MOUNTED"]);
    assert_eq!(uses("/dev/sdf"), [""; 0]);
    // multipathd has claimed this disk, but has not created a map of it.
    udev(&tree, "sdf", "8:80", &["E:DM_MULTIPATH_DEVICE_PATH=1"]);
    assert_eq!(codes(&item(&list(&tree, ""), "/dev/sdf")), ["MULTIPATH_PATH"]);
    assert_eq!(uses("/dev/sdba"), ["MOUNTED"]);
    assert_eq!(item(&document, "/dev/sdba")["mountpoints"], json!(["/mnt/usb disk"]));

    let (run, sdba) = check(&tree, "sdba");
    assert_eq!((run.status, codes(&sdba)), (Some(10), vec!["IDENTITY", "MOUNTED"]));
    assert_eq!(sdba["findings"][1]["remedy"], "umount '/mnt/usb disk'");
    let (run, part) = check(&tree, "/dev/sdf1");
    assert_eq!((run.status, codes(&part)), (Some(10), vec!["IDENTITY", "IS_PARTITION"]));
}

/// A mount in another mount namespace is found only in that namespace's table.
#[test]
fn check_finds_a_mount_in_another_mount_namespace() {
    let tree = machine();
    disk(&tree, "ata1/host0/target0:0:0/0:0:0:0/block", "sda", (8, 0), 1, &[]);
    for (pid, namespace) in [("self", 1), ("1", 1), ("70", 2), ("71", 2)] {
        std::fs::create_dir_all(tree.path(&format!("proc/{pid}/ns"))).unwrap();
        let link = tree.path(&format!("proc/{pid}/ns/mnt"));
        std::os::unix::fs::symlink(format!("mnt:[{namespace}]"), link).unwrap();
    }
    tree.file("proc/70/mountinfo", "22 1 8:1 / / rw - ext4 /dev/sda1 rw\n");
    let (run, item) = check(&tree, "/dev/sda");
    assert_eq!(run.status, Some(10));
    assert_eq!(item["blockers"], json!(["MOUNTED"]), "the root of a container is not the host's");
    assert_eq!(item["findings"][1]["remedy"], "nsenter -t 70 -m umount /");
    assert_eq!(codes(&item), ["IDENTITY", "MOUNTED"]);
}

#[test]
fn check_finds_the_boot_disk_and_the_resume_disk_without_a_mount() {
    let tree = machine();
    disk(&tree, "ata1/host0/target0:0:0/0:0:0:0/block", "sda", (8, 0), 1, &[]);
    disk(&tree, "ata2/host1/target1:0:0/1:0:0:0/block", "sdb", (8, 16), 1, &[]);
    udev(&tree, "sda1", "8:1", &["E:ID_PART_ENTRY_UUID=c12a7328-f81f"]);
    let variable = "LoaderDevicePartUUID-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f";
    let text: Vec<u8> = "C12A7328-F81F\0".encode_utf16().flat_map(u16::to_le_bytes).collect();
    tree.file(&format!("sys/firmware/efi/efivars/{variable}"), [&[6, 0, 0, 0], &text[..]].concat());
    tree.file("sys/power/resume", "8:17\n");
    for device in ["/dev/sda", "/dev/sdb"] {
        assert_eq!(check(&tree, device).1["blockers"], json!(["SYSTEM_DISK"]), "{device}");
    }
}

#[test]
fn an_id_that_two_disks_share_is_not_the_name_of_a_disk() {
    let tree = machine();
    for (index, name) in (0..).zip(["sda", "sdb"]) {
        let below = format!("usb1/1-{index}/host{index}/target{index}:0:0/{index}:0:0:0/block");
        disk(&tree, &below, name, (8, 16 * index), 0, &[("device/model", "Bridge")]);
        let number = format!("8:{}", 16 * index);
        tree.file(
            &format!("run/udev/data/b{number}"),
            "E:ID_SERIAL_SHORT=000000000001\n\
            S:disk/by-id/usb-Bridge_000000000001-0:0\n",
        );
    }
    // udev points the link at one of the two disks.
    tree.link("dev/disk/by-id/usb-Bridge_000000000001-0:0", "dev/sdb");
    assert_eq!(item(&list(&tree, ""), "/dev/sda")["by_id"], Value::Null);
    let (_, item) = check(&tree, "/dev/disk/by-id/usb-Bridge_000000000001-0:0");
    assert_eq!((&item["device"], codes(&item)), (&json!("/dev/sdb"), vec!["DUPLICATE_ID"]));
}

/// Two paths to one disk, without multipathd.
#[test]
fn check_finds_a_mount_of_another_path_to_the_same_disk() {
    let tree = machine();
    for (index, name) in (0..).zip(["sda", "sdb", "sdc"]) {
        let below = format!("host{index}/rport-{index}/target{index}:0:0/{index}:0:0:0/block");
        disk(&tree, &below, name, (8, 16 * index), 1, &[]);
        let wwn = if name == "sdc" { "0x2" } else { "0x1" };
        tree.file(&format!("run/udev/data/b8:{}", 16 * index), format!("E:ID_WWN={wwn}\n"));
    }
    tree.file("proc/self/mountinfo", "22 1 8:1 / /srv rw - ext4 /dev/sda1 rw\n");
    let (_, other) = check(&tree, "/dev/sdb");
    assert_eq!(
        (&other["blockers"], codes(&other)),
        (&json!(["MOUNTED"]), vec!["DUPLICATE_ID", "IDENTITY", "MOUNTED"])
    );
    assert_eq!(check(&tree, "/dev/sdc").1["blockers"], json!([]));
}

#[test]
fn five_hundred_disks_are_listed() {
    let tree = machine();
    for index in 0..500u32 {
        let below = format!("ata{index}/host{index}/target{index}:0:0/{index}:0:0:0/block");
        disk(&tree, &below, &format!("sd{index}x"), (8 + index / 16, index % 16 * 16), 1, &[]);
    }
    let document = list(&tree, "");
    assert_eq!(document["items"].as_array().unwrap().len(), 500);
    assert!(document["items"].as_array().unwrap().iter().all(|item| item["available"] == true));
    let names = tree.run("tdx-disk", "list --format name").text().lines().count();
    assert_eq!(names, 500);
}

#[test]
fn list_is_empty_on_a_machine_without_disks() {
    assert_eq!(list(&Tree::new(), "--all")["items"], json!([]));
    let run = tools::tool("tdx-disk", ["list", "--sysroot", "/no/such/folder"]);
    assert_eq!(run.error(4)["kind"], "not_found");
    Tree::new().run("tdx-disk", "attach vm sda").error(2);
    tools::tool("tdx-disk", ["list", "--nonsense"]).error(2);
    tools::tool("tdx-disk", ["check"]).error(2);
}
