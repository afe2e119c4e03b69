//! The tools composed, as the README shows them.

mod support;

use support::{Rig, guest_image};

#[test]
#[ignore = "needs root"]
fn import_pipes_into_new() {
    let rig = Rig::start();
    let image = guest_image(false);
    let line = format!(
        "tdx-pool import {} | tdx-td new --base - --security none --memory 256M --vcpus 1 --name web1",
        image.display()
    );
    let made = rig.shell(&line).item();
    assert_eq!((&made["action"], &made["name"]), (&"create".into(), &"web1".into()));
    let names =
        rig.shell("tdx-td list --json | jq -r '.items[] | select(.state==\"running\") | .name'");
    assert_eq!(names.text(), "web1\n");
}
