//! `tdx-td` on a real libvirtd, with guests that boot.

use crate::support::rig::{Rig, guest_image};
use crate::support::wait::wait_for;

const SMALL: [&str; 8] =
    ["--security", "none", "--virt-type", "qemu", "--memory", "256M", "--vcpus", "1"];

/// The main use: from a disk image to a running guest, and to its deletion.
#[test]
#[ignore = "needs root"]
fn a_guest_is_created_used_and_deleted_without_a_trace() {
    let rig = Rig::start_for_booted_guests();
    let image = guest_image(false);
    rig.tool("tdx-pool", ["import".as_ref(), image.as_os_str()]).document();
    let before = rig.state();
    let base = rig.path("/var/lib/libvirt/images/guest.qcow2");
    let owner = |path| {
        let file = std::fs::metadata(path).unwrap();
        use std::os::unix::fs::MetadataExt;
        (file.uid(), file.mode() & 0o7777)
    };

    let new = ["new", "-i", "guest.qcow2", "--name", "web1"];
    let made = rig.tool("tdx-td", new.iter().chain(&SMALL)).item();
    assert_eq!((&made["action"], &made["state"]), (&"create".into(), &"running".into()));
    assert_eq!(owner(&base), (0, 0o640));

    let ip = wait_for("a lease", || {
        let item = rig.tool("tdx-td", ["list"]).item();
        item["ip"].as_str().map(str::to_owned)
    });
    assert!(ip.starts_with("192.168.122."), "{ip}");
    // The neighbour table may have the address a moment before libvirt writes the lease.
    wait_for("the same lease in virsh", || {
        rig.virsh(["domifaddr", "web1"]).contains(&ip).then_some(())
    });
    assert_eq!(owner(&base), (0, 0o640));

    // The guest shuts down at the request, without force.
    let gone = rig.tool("tdx-td", ["delete", "web1", "--yes"]).item();
    assert_eq!((&gone["action"], &gone["forced"]), (&"delete".into(), &false.into()));
    assert_eq!(owner(&base), (0, 0o640));
    assert_eq!(rig.state(), before);
}
