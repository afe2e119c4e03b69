//! Documents in pipes, and the script `examples/vm-disk`.

use super::*;

#[test]
#[ignore = "needs root"]
fn attach_reads_items_of_list_and_check_reads_items_of_attached() {
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

/// The commands of the script that existing users know.
#[test]
#[ignore = "needs root"]
fn vm_disk_script_accepts_the_original_commands() {
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
