//! Guests, disks and images under AppArmor, which enforces the profiles that Debian's libvirt brings, on
//! a real kernel (rig 2).

use serde_json::{Value, json};

use crate::support::kernel::Kernel;
use crate::support::rig::guest_image;

const SMALL: &str = "--security none --virt-type qemu --memory 64M --vcpus 1 --hotplug-ports 1";

/// A file that QEMU's user may read and no guest's profile lets it.
const STRANGE: &str = "/mnt/data/strange.raw";

/// What QEMU tries to read about a disk that it is given, and does without: the profile of Debian 12
/// does not let it.
const HARMLESS: &str = "/queue/max_segments\"";

/// The profile that confines the process of this PID file, and how.
fn profile(kernel: &Kernel, pid_file: &str) -> String {
    let read = format!("cat /proc/$(cat {pid_file})/attr/current");
    kernel.shell(&read).text().trim().to_owned()
}

/// What AppArmor has denied so far.
fn denials(kernel: &Kernel) -> Vec<String> {
    let log = kernel.shell("dmesg | grep 'apparmor=\"DENIED\"'; true");
    log.text().lines().filter(|line| !line.contains(HARMLESS)).map(str::to_owned).collect()
}

#[test]
#[ignore = "needs root"]
fn guests_and_disks_under_enforced_profiles_work_and_nothing_is_denied() {
    let kernel = Kernel::start_with_apparmor();
    assert_eq!(profile(&kernel, "/run/libvirtd.pid"), "libvirtd (enforce)");
    // The base's owner is among what must stay as it is.
    let look = "stat -c '%n %U:%G %a' /var/lib/libvirt/images/* /mnt/data/* /dev/nvme*n1; virsh list --all";
    kernel.shell(&format!("truncate -s 1M {STRANGE} && chmod 0666 {STRANGE}")).text();
    kernel.tool("tdx-pool", ["import".as_ref(), guest_image(false).as_os_str()]).document();
    kernel.shell("qemu-img create -q -f qcow2 /mnt/data/own.qcow2 16M").text();
    let before = kernel.sorted(look);

    // On an image of the user's.
    let run = |line: &str| kernel.shell(&format!("tdx-td new {line} {SMALL}")).item();
    let own = run("--vmimage /mnt/data/own.qcow2 --name y");
    let label = |item: &Value| format!("libvirt-{} (enforce)", item["uuid"].as_str().unwrap());
    assert_eq!(profile(&kernel, "/run/libvirt/qemu/y.pid"), label(&own));
    kernel.shell("tdx-td delete y --yes --timeout 0").document();

    // Over a base image, with a seed.
    kernel.shell("umask 077 && echo secret >password").text();
    let made = run("-i guest.qcow2 --name x -u adm --password-file password");
    assert_eq!(made["disks"].as_array().map(Vec::len), Some(2), "{made:#}");
    assert_eq!(profile(&kernel, "/run/libvirt/qemu/x.pid"), label(&made));

    // A disk of the host comes and goes. On SCSI it goes without the guest's help.
    let find = "grep -l '^rig-1 *$' /sys/block/nvme*/device/serial | cut -d/ -f4";
    let disk = format!("/dev/{}", kernel.shell(find).text().trim());
    let given = kernel.shell(&format!("tdx-disk attach x {disk} --bus scsi --serial S1")).item();
    assert_eq!((&given["action"], &given["live"]), (&json!("attach"), &json!(true)), "{given:#}");
    let taken = kernel.shell(&format!("tdx-disk detach x {disk}")).item();
    assert_eq!(taken["action"], "detach", "{taken:#}");

    assert_eq!(denials(&kernel), [""; 0]);
    // That is because nothing had to be denied: the same QEMU may not open another file.
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
