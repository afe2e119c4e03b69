//! The tools composed, as the README shows them.

mod support;
#[path = "support/td.rs"]
mod td;

use serde_json::json;
use support::{Rig, guest_image};
use td::{define, foreign, volumes};

#[test]
#[ignore = "needs root"]
fn an_image_becomes_domains_and_they_go_again() {
    let rig = Rig::start();
    let image = guest_image(false);
    let new = "tdx-td new --base - --security none --memory 64M --vcpus 1";
    let made =
        rig.shell(&format!("tdx-pool import {} | {new} --name web1", image.display())).item();
    assert_eq!((&made["action"], &made["name"]), (&json!("create"), &json!("web1")));
    // The volumes, of which one is chosen; again the import, which changes nothing.
    let base = "jq '.items[] | select(.role==\"base\")'";
    let made = rig.shell(&format!("tdx-pool volumes | {base} | {new} --name web2")).item();
    assert_eq!(made["base"], "/var/lib/libvirt/images/guest.qcow2");
    let again = rig.shell(&format!("tdx-pool import {} | {new} --name web2", image.display()));
    assert_eq!(again.document()["changed"], false);
    let none =
        rig.shell(&format!("tdx-pool volumes | jq '[.items[] | select(.role==\"none\")]' | {new}"));
    none.error(3);
    define(&rig, &foreign("a b;c", ""));

    let names =
        rig.shell("tdx-td list --json | jq -r '.items[] | select(.state==\"running\") | .name'");
    assert_eq!(names.text(), "web1\nweb2\n");
    let each =
        rig.shell("for d in $(tdx-td list --format name | grep web); do echo \"<$d>\"; done");
    assert_eq!(each.text(), "<web1>\n<web2>\n");
    let stop = "tdx-td list --json | jq -r '.items[] | select(.state==\"running\") | .name' | \
        xargs -n1 tdx-td stop --force";
    assert_eq!(rig.shell(stop).text().matches("\"action\":\"stop\"").count(), 2);
    assert_eq!(rig.shell("tdx-td list | tdx-td start - --format name").status, Some(0));
    rig.shell("tdx-td show web1 | tdx-td stop - --force").document();

    // What started above is not ours as a whole: the foreign one keeps its definition.
    rig.shell("tdx-td list | tdx-td delete - --yes --timeout 0").error(5);
    assert_eq!(rig.shell("tdx-td list --format name").text(), "a b;c\n");
    let rest =
        rig.shell("tdx-td list | jq '.items[]' | tdx-td delete - --foreign --yes --timeout 0");
    assert_eq!(rest.item()["name"], "a b;c");
    assert_eq!(volumes(&rig), ["guest.qcow2"]);
    let empty = rig.shell("tdx-td list | tdx-td delete - --yes").document();
    assert_eq!((&empty["changed"], &empty["items"]), (&json!(false), &json!([])));
    // A producer that fails gives nothing, and that is said.
    let error = rig.shell("tdx-pool import /absent.qcow2 2>/dev/null | tdx-td new --base -");
    assert!(error.error(3)["hint"].as_str().unwrap().contains("pipefail"));
}

#[test]
#[ignore = "needs root"]
fn an_overlay_is_made_for_a_domain_of_the_users_own() {
    let rig = Rig::start();
    let image = guest_image(false);
    let line =
        format!("tdx-pool import {} | tdx-td overlay --base - --disk-size 1G", image.display());
    let overlay = rig.shell(&line).item();
    assert_eq!(
        (&overlay["capacity_bytes"], &overlay["action"]),
        (&json!(1 << 30), &json!("create"))
    );
    let path = overlay["path"].as_str().unwrap();
    let info = rig.shell(&format!("qemu-img info --output json {path}"));
    let info: serde_json::Value = serde_json::from_str(info.text()).unwrap();
    assert_eq!(info["backing-filename-format"], "qcow2");
    assert_eq!(info["format-specific"]["data"]["compat"], "1.1");
    // Until something refers to it, it is an orphan.
    let orphans = rig.tool("tdx-pool", ["cleanup", "--yes"]).document();
    assert_eq!(orphans["changed"], true);
    assert_eq!(volumes(&rig), ["guest.qcow2"]);
}
