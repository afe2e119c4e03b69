//! `tdx-pool` against a real libvirtd.

mod support;

use support::{Rig, guest_image};

#[test]
#[ignore = "needs root"]
fn a_pool_is_made_once() {
    let rig = Rig::start();
    let before = rig.state();
    let plan = rig.tool("tdx-pool", ["ensure", "--dry-run"]).document();
    assert_eq!((&plan["changed"], &plan["dry_run"]), (&true.into(), &true.into()));
    assert_eq!(rig.state(), before, "a dry run changed something");

    let made = rig.tool("tdx-pool", ["ensure"]).document();
    assert_eq!(made["items"][0]["action"], "create");
    assert_eq!(made["items"][0]["path"], "/var/lib/libvirt/images");
    assert_eq!(rig.virsh(["pool-info", "tdvirsh-pool"]).matches("yes").count(), 2);

    let again = rig.tool("tdx-pool", ["ensure"]).document();
    assert_eq!((&again["changed"], &again["items"][0]["action"]), (&false.into(), &"none".into()));
}

#[test]
#[ignore = "needs root"]
fn an_image_is_imported_once() {
    let rig = Rig::start();
    let image = guest_image(false);
    let image = image.to_str().unwrap();
    let first = rig.tool("tdx-pool", ["import", image]).document();
    assert_eq!(first["items"][0]["action"], "import");
    let second = rig.tool("tdx-pool", ["import", image]).document();
    assert_eq!(second["changed"], false);
    assert_eq!(second["items"][0]["action"], "none");
}
