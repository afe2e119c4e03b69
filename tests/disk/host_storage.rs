//! The disks below the host's file systems and swap, as `tdx-iommu`, `tdx-gpu` and `tdx-disk` find them, on
//! machines made of files.

#![expect(clippy::disallowed_methods, reason = "tests start programs as users do")]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::process::Command;

use serde_json::Value;

use crate::support::tools::{Run, bin};
use crate::support::tree::{Spec, Tree};

/// The controller of `nvme{n}n1`, alone in its IOMMU group.
fn controller(n: u32) -> String {
    format!("0000:0{}:00.0", n + 1)
}

/// A machine with four NVMe disks, `nvme0n1` to `nvme3n1`, each with two partitions.
fn machine() -> Tree {
    let mut tree = Tree::new();
    for n in 0..4 {
        let (bdf, disk) = (controller(n), format!("nvme{n}n1"));
        let more = &[("reset_method", "flr"), ("modalias", "pci:x")];
        let spec = Spec { ids: "144d:a80a", class: "010802", driver: "nvme", group: Some(n), more };
        tree.device(&format!("0000:0{}", n + 1), &bdf, spec);
        tree.disk(&bdf, &format!("nvme/nvme{n}"), &disk, (259, 10 * n), 2);
        let folder = format!("{}/nvme/nvme{n}/{disk}", tree.folder(&bdf));
        tree.file(&format!("dev/{disk}"), "");
        tree.file(&format!("{folder}/size"), "2097152\n");
        tree.file(&format!("{folder}/queue/logical_block_size"), "512\n");
    }
    tree.file("proc/meminfo", "MemTotal: 4194304 kB\n");
    tree
}

fn mount(tree: &Tree, lines: &[&str]) {
    tree.file("proc/self/mountinfo", lines.join("\n") + "\n");
}

/// The disks that `tdx-iommu check` and `tdx-gpu check` refuse with one code, and `tdx-disk list` with
/// another code.
fn refused(tree: &Tree, pci: &str, disk: &str) -> [Vec<u32>; 3] {
    let by_pci = |tool: &str| {
        let refused = |n: &u32| {
            let run = tree.run(tool, &format!("check {} --json", controller(*n)));
            let document: Value = serde_json::from_str(&run.stdout).unwrap();
            let blockers = document["items"][0]["blockers"].to_string();
            assert_eq!(run.status == Some(10), blockers != "[]", "{run:?}");
            blockers.contains(pci)
        };
        (0..4).filter(refused).collect()
    };
    let listed = tree.run("tdx-disk", "list").document();
    let has_code = |n: &u32| {
        let device = format!("/dev/nvme{n}n1");
        let item =
            listed["items"].as_array().unwrap().iter().find(|item| item["device"] == *device);
        item.unwrap()["in_use"].to_string().contains(disk)
    };
    [by_pci("tdx-iommu"), by_pci("tdx-gpu"), (0..4).filter(has_code).collect()]
}

fn system(tree: &Tree) -> [Vec<u32>; 3] {
    refused(tree, "HOST_DISK_ROOT", "SYSTEM_DISK")
}

#[test]
fn every_member_of_a_root_on_several_devices_is_refused() {
    let tree = machine();
    mount(&tree, &["22 1 0:24 / / rw - bcachefs /dev/nvme0n1:/dev/nvme1n1p2 rw"]);
    assert_eq!(system(&tree), [[0, 1], [0, 1], [0, 1]]);
    // sysfs names one more device of the file system.
    for (dev, block) in [("dev-0", "nvme0n1"), ("dev-1", "nvme1n1p2"), ("dev-2", "nvme3n1")] {
        let link = format!("sys/fs/bcachefs/6f5c/{dev}/block");
        tree.link(&link, &format!("sys/class/block/{block}"));
    }
    assert_eq!(system(&tree), [[0, 1, 3], [0, 1, 3], [0, 1, 3]]);
    // XFS with an external log.
    mount(&tree, &["22 1 259:1 / / rw - xfs /dev/nvme0n1p1 rw,attr2,logdev=/dev/nvme2n1p2"]);
    assert_eq!(system(&tree), [[0, 2], [0, 2], [0, 2]]);
}

#[test]
fn a_root_that_the_kernel_calls_dev_root_is_refused() {
    for root in ["/dev/nvme1n1p2", "259:12", "PARTUUID=0a1b-02", "UUID=\"6f5c\""] {
        let tree = machine();
        mount(&tree, &["22 1 0:24 / / rw - btrfs /dev/root rw"]);
        tree.file("proc/cmdline", format!("quiet root={root} ro\n"));
        tree.file("dev/nvme1n1p2", "");
        tree.link("dev/disk/by-partuuid/0a1b-02", "dev/nvme1n1p2");
        tree.link("dev/disk/by-uuid/6f5c", "dev/nvme1n1p2");
        assert_eq!(system(&tree), [[1], [1], [1]], "{root}");
        // The other devices of the file system.
        for block in ["nvme1n1p2", "nvme3n1"] {
            let link = format!("sys/fs/btrfs/6f5c/devices/{block}");
            tree.link(&link, &format!("sys/class/block/{block}"));
        }
        assert_eq!(system(&tree), [[1, 3], [1, 3], [1, 3]], "{root}");
    }
    // The kernel calls the device `/dev/root`; its number identifies the partition.
    let tree = machine();
    mount(&tree, &["22 1 259:21 / / rw - ext4 /dev/root rw"]);
    assert_eq!(system(&tree), [[2], [2], [2]]);
    // scan warns if sysfs lists no device of the root file system; else each listed device is refused.
    mount(&tree, &["22 1 0:24 / / rw - btrfs /dev/root rw"]);
    let warnings = tree.iommu("scan").document()["warnings"].to_string();
    assert!(
        warnings.contains("cannot find the block device of /dev/root, mounted on /"),
        "{warnings}"
    );
    tree.link("sys/fs/btrfs/6f5c/devices/nvme3n1", "sys/class/block/nvme3n1");
    assert_eq!(system(&tree), [[3], [3], [3]]);
}

#[test]
fn disks_mounted_by_other_names_or_with_swap_files_are_refused() {
    let tree = machine();
    tree.file("dev/nvme1n1p1", "");
    tree.link("dev/disk/by-label/data", "dev/nvme1n1p1");
    let name = "22 1 259:1 / / rw - ext4 /dev/nvme0n1p1 rw\n\
        23 22 0:40 / /srv rw - btrfs /dev/disk/by-label/data rw\n\
        24 22 259:31 / /mnt/";
    // A mount point that is not valid UTF-8 hides no other line.
    tree.file(
        "proc/self/mountinfo",
        [name.as_bytes(), b"\xff rw - ext4 /dev/nvme3n1p1 rw\n"].concat(),
    );
    assert_eq!(refused(&tree, "HOST_DISK_", "MOUNTED"), [[0, 1, 3], [0, 1, 3], [0, 1, 3]]);
    mount(
        &tree,
        &[
            "22 1 259:1 / / rw - ext4 /dev/nvme0n1p1 rw",
            "23 22 0:40 / /srv rw - btrfs /dev/nvme2n1 rw",
        ],
    );
    tree.file("srv/swapfile", "");
    tree.file("proc/swaps", "Filename Type Size Used Priority\n/srv/swapfile file 8 0 -2\n");
    assert_eq!(refused(&tree, "HOST_DISK_ROOT", "SWAP")[0], [0, 2]);
    assert_eq!(refused(&tree, "HOST_DISK_ROOT", "SWAP")[2], [2]);
}

fn refuses_to_answer(run: &Run, says: &str) {
    let error: Value = run.error(6);
    let message = error["message"].as_str().unwrap();
    assert!(message.contains("/proc/self/mountinfo lists no mounts"), "{error}");
    assert!(error["hint"].as_str().unwrap().contains(says), "{error}");
}

#[test]
fn a_machine_without_a_mount_table_is_an_error() {
    for text in [None, Some(""), Some("no mount table\n")] {
        let tree = machine();
        std::fs::remove_file(tree.path("proc/self/mountinfo")).unwrap();
        if let Some(text) = text {
            tree.file("proc/self/mountinfo", text);
        }
        let bdf = controller(0);
        for (tool, line) in [
            ("tdx-iommu", "scan --json".to_owned()),
            ("tdx-iommu", format!("check {bdf} --json")),
            ("tdx-gpu", format!("check {bdf} --json")),
            ("tdx-gpu", format!("bind {bdf} --dry-run --json")),
            ("tdx-disk", "list --json".to_owned()),
            ("tdx-disk", "check /dev/nvme0n1 --json".to_owned()),
        ] {
            refuses_to_answer(&tree.run(tool, &line), "to the --sysroot directory");
        }
    }
}

/// An empty /proc, as in a chroot without one.
#[test]
#[ignore = "needs root"]
fn an_empty_proc_of_this_machine_is_an_error() {
    for (tool, line) in [("tdx-iommu", "scan --json"), ("tdx-disk", "list --json")] {
        let script = format!("mount -t tmpfs none /proc && exec {} {line}", bin(tool).display());
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", &script]);
        refuses_to_answer(&Run::of(command, b""), "mount -t proc proc /proc");
    }
}
