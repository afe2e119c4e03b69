//! `tdx-pool delete`.

use serde_json::json;

use crate::support::pool::{IMAGES, named, values};
use crate::support::rig::Rig;

fn source(name: &str) -> Vec<String> {
    vec![format!("<source file='{IMAGES}/{name}'/>")]
}

#[test]
#[ignore = "needs root"]
fn delete_keeps_needed_volumes_and_deletes_the_others() {
    let rig = Rig::start();
    rig.pool("ensure").document();
    let path = |name: &str| format!("{IMAGES}/{name}");
    rig.qcow2(&path("base"), None);
    rig.qcow2(&path("middle"), Some(("base", "qcow2")));
    rig.qcow2(&path("top"), Some((&path("middle"), "qcow2")));
    for name in ["on", "off", "saved", "free", "a", "b"] {
        rig.qcow2(&path(name), None);
    }
    rig.define("on", &source("on"));
    rig.virsh(["start", "on"]);
    rig.define("off", &source("off"));
    rig.define("saved", &source("saved"));
    rig.virsh(["start", "saved"]);
    rig.virsh(["managedsave", "saved"]);
    rig.define("saved", &[]);

    let before = rig.listing(IMAGES);
    for (name, user) in [
        ("base", "volume 'middle', volume 'top'"),
        ("middle", "volume 'top'"),
        ("on", "domain 'on'"),
        ("off", "domain 'off'"),
        ("saved", "domain 'saved'"),
    ] {
        for flag in ["--yes", "--dry-run"] {
            let error = rig.pool(&format!("delete {name} {flag}")).error(5);
            assert_eq!(error["message"], format!("volume '{name}' is needed by {user}"), "{flag}");
        }
    }
    rig.pool("delete free").error(5);
    let plan = rig.pool("delete free -n").item();
    assert_eq!(rig.listing(IMAGES), before);
    assert_eq!(rig.pool("delete free --yes").item(), plan);
    // An absent volume counts as deleted, and needs no confirmation.
    for name in ["free", "never", "-", ".."] {
        let mut run = rig.tool("tdx-pool", ["delete", name]);
        if name == "-" {
            run = rig.pipe("tdx-pool", ["delete", name], r#"[{"name":"free"}]"#);
        }
        let document = run.document();
        assert_eq!(document["changed"], false);
        assert_eq!(
            (&document["items"][0]["action"], &document["items"][0]["path"]),
            (&json!("none"), &json!(null))
        );
    }
    // All volumes are tried, and the error lists the deleted ones.
    let error = rig.pool("delete a on b never --yes").error(5);
    assert_eq!(error["message"], "volume 'on' is needed by domain 'on'");
    assert_eq!(error["applied"], json!(["deleted volume 'a'", "deleted volume 'b'"]));
    assert_eq!(rig.names(), ["base", "middle", "off", "on", "saved", "top"]);

    // A whole image chain in one command, in any order of names, and by document.
    let plan = rig.pool("delete base top middle -n").document();
    assert_eq!(values(&plan, "action"), ["delete"; 3]);
    let line = "tdx-pool volumes | jq '.items[] | select(.users == [])' | tdx-pool delete - --yes";
    let line = match rig.shell("command -v jq").status {
        Some(0) => line.to_owned(),
        _ => "tdx-pool delete base top middle --yes".to_owned(),
    };
    assert_eq!(rig.shell(&line).document()["items"], plan["items"]);
    assert_eq!(rig.names(), ["off", "on", "saved"]);
    rig.pool("delete off --pool absent --yes").error(4);
}

#[test]
#[ignore = "needs root"]
fn delete_refuses_a_volume_that_backs_an_image_in_another_pool() {
    let rig = Rig::start();
    rig.pool("ensure").document();
    rig.shell("mkdir mine others").text();
    rig.pool("ensure --pool others --path others").document();
    let folder = rig.scratch().join("others").to_str().unwrap().to_owned();
    rig.qcow2(&format!("{IMAGES}/base"), None);
    // An image that libvirt does not know, in an inactive pool.
    rig.qcow2(&format!("{folder}/top"), Some((&format!("{IMAGES}/base"), "qcow2")));
    rig.virsh(["pool-destroy", "others"]);
    let error = rig.pool("delete base --yes").error(5);
    assert_eq!(error["message"], "volume 'base' is needed by volume 'top' of pool 'others'");
    rig.virsh(["pool-start", "others"]);
    let remote = rig.pool("-c qemu+tcp://127.0.0.1/system delete base --yes").error(5);
    assert_eq!(remote["message"], error["message"]);

    // Equal names in two pools are different volumes.
    rig.qcow2(&format!("{IMAGES}/top"), None);
    let document = rig.pool("volumes --pool others").document();
    assert_eq!(named(&document, "top")["role"], "overlay");
    let deleted = rig.pipe("tdx-pool", ["delete", "-", "-y"], document.to_string()).document();
    assert_eq!(values(&deleted, "pool"), ["others"]);
    assert_eq!(rig.names(), ["base", "top"]);
}
