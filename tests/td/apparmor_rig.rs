//! Guests, disks and images under AppArmor, which enforces the profiles of Debian's libvirt, on a real kernel
//! (rig 2).

use serde_json::{Value, json};

use crate::support::kernel::Kernel;
use crate::support::rig::guest_image;

const SMALL: &str = "--security none --virt-type qemu --memory 64M --vcpus 1 --hotplug-ports 1";

/// A file that QEMU's user may read and that no guest's profile allows.
const STRANGE: &str = "/mnt/data/strange.raw";

/// An attribute of a disk that QEMU tries to read and does not need. The profile of Debian 12 denies it.
const HARMLESS: &str = "/queue/max_segments\"";

/// The profile that confines the process in this PID file, and its mode.
fn profile(kernel: &Kernel, pid_file: &str) -> String {
    let read = format!("cat /proc/$(cat {pid_file})/attr/current");
    kernel.shell(&read).text().trim().to_owned()
}

/// The denials of AppArmor so far.
fn denials(kernel: &Kernel) -> Vec<String> {
    let log = kernel.shell("dmesg | grep 'apparmor=\"DENIED\"'; true");
    log.text().lines().filter(|line| !line.contains(HARMLESS)).map(str::to_owned).collect()
}

#[test]
#[ignore = "needs root"]
fn guests_and_disks_under_enforced_profiles_work_and_nothing_is_denied() {
    let kernel = Kernel::start_with_apparmor();
    assert_eq!(profile(&kernel, "/run/libvirtd.pid"), "libvirtd (enforce)");
    // The owner of the base image must not change either.
    let look = "stat -c '%n %U:%G %a' /var/lib/libvirt/images/* /mnt/data/* /dev/nvme*n1; virsh list --all";
    kernel.shell(&format!("truncate -s 1M {STRANGE} && chmod 0666 {STRANGE}")).text();
    kernel.tool("tdx-pool", ["import".as_ref(), guest_image(false).as_os_str()]).document();
    kernel.shell("qemu-img create -q -f qcow2 /mnt/data/own.qcow2 16M").text();
    let before = kernel.sorted(look);

    // A guest on an image of the user.
    let run = |line: &str| kernel.shell(&format!("tdx-td new {line} {SMALL}")).item();
    let own = run("--vmimage /mnt/data/own.qcow2 --name y");
    let label = |item: &Value| format!("libvirt-{} (enforce)", item["uuid"].as_str().unwrap());
    assert_eq!(profile(&kernel, "/run/libvirt/qemu/y.pid"), label(&own));
    kernel.shell("tdx-td delete y --yes --timeout 0").document();

    // A guest on an overlay of a base image, with a seed.
    kernel.shell("umask 077 && echo secret >password").text();
    let made = run("-i guest.qcow2 --name x -u adm --password-file password");
    assert_eq!(made["disks"].as_array().map(Vec::len), Some(2), "{made:#}");
    assert_eq!(profile(&kernel, "/run/libvirt/qemu/x.pid"), label(&made));

    // A disk of the host is attached and detached. On SCSI the guest need not cooperate.
    let find = "grep -l '^rig-1 *$' /sys/block/nvme*/device/serial | cut -d/ -f4";
    let disk = format!("/dev/{}", kernel.shell(find).text().trim());
    let given = kernel.shell(&format!("tdx-disk attach x {disk} --bus scsi --serial S1")).item();
    assert_eq!((&given["action"], &given["live"]), (&json!("attach"), &json!(true)), "{given:#}");
    let taken = kernel.shell(&format!("tdx-disk detach x {disk}")).item();
    assert_eq!(taken["action"], "detach", "{taken:#}");

    assert_eq!(denials(&kernel), [""; 0]);
    // AppArmor is active: this QEMU may not open another file.
    let open = json!({"execute": "blockdev-add", "arguments":
        {"driver": "file", "node-name": "strange", "filename": STRANGE}});
    let refused = kernel.shell(&format!("virsh qemu-monitor-command x '{open}'"));
    assert!(format!("{refused:?}").contains("Permission denied"), "{refused:#?}");
    let denied = denials(&kernel);
    assert!(denied.len() == 1 && denied[0].contains(STRANGE), "{denied:#?}");

    let gone = kernel.shell("tdx-td delete x --yes --timeout 0").document();
    assert_eq!(gone["changed"], true);
    assert_eq!(denials(&kernel), denied);
    assert_eq!(kernel.sorted(look), before);
}
