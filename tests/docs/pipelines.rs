//! The pipelines and examples that the pages show.

use serde_json::json;

use crate::support::rig::{Rig, guest_image};
use crate::support::td::{define, foreign, volumes};
use crate::support::tools::{self, Run, repository};

/// Runs a pipeline of `examples/pipelines.sh`, with these variables.
fn pipeline(rig: &Rig, variables: &str, name: &str) -> Run {
    let script = repository().join("examples/pipelines.sh");
    let settings = "TDX_SECURITY=none TDX_VIRT_TYPE=qemu TDX_MEMORY=64M TDX_VCPUS=1";
    rig.shell(&format!("{settings} {variables} {} {name}", script.display()))
}

#[test]
#[ignore = "needs root"]
fn example_pipelines_create_start_stop_and_delete_domains() {
    let rig = Rig::start();
    let image = format!("IMAGE={}", guest_image(false).display());
    let made = pipeline(&rig, &image, "image_to_guest").item();
    assert_eq!((&made["action"], &made["name"]), (&json!("create"), &json!("web1")));
    // The pipeline selects one of the volumes. A second import changes nothing.
    let made = pipeline(&rig, "GUEST=web2", "volume_to_guest").item();
    assert_eq!(made["base"], "/var/lib/libvirt/images/guest.qcow2");
    let again = pipeline(&rig, &format!("{image} GUEST=web2"), "image_to_guest");
    assert_eq!(again.document()["changed"], false);
    let new = "tdx-td new --base - --security none --memory 64M --vcpus 1";
    let none =
        rig.shell(&format!("tdx-pool volumes | jq '[.items[] | select(.role==\"none\")]' | {new}"));
    none.error(3);
    define(&rig, &foreign("a b;c", ""));

    let names =
        rig.shell("tdx-td list --json | jq -r '.items[] | select(.state==\"running\") | .name'");
    assert_eq!(names.text(), "web1\nweb2\n");
    assert_eq!(
        pipeline(&rig, "STOP=--force", "stop_all").text().matches("\"action\":\"stop\"").count(),
        2
    );
    assert_eq!(rig.shell("tdx-td list | tdx-td start - --format name").status, Some(0));
    rig.shell("tdx-td show web1 | tdx-td stop - --force").document();

    // The foreign domain was started above, but delete keeps its definition without --foreign.
    rig.shell("tdx-td list | tdx-td delete - --yes --timeout 0").error(5);
    assert_eq!(rig.shell("tdx-td list --format name").text(), "a b;c\n");
    let rest =
        rig.shell("tdx-td list | jq '.items[]' | tdx-td delete - --foreign --yes --timeout 0");
    assert_eq!(rest.item()["name"], "a b;c");
    assert_eq!(volumes(&rig), ["guest.qcow2"]);
    let empty = rig.shell("tdx-td list | tdx-td delete - --yes").document();
    assert_eq!((&empty["changed"], &empty["items"]), (&json!(false), &json!([])));
    // A producer that fails prints nothing, and the consumer reports that.
    let error = pipeline(&rig, "IMAGE=/absent.qcow2", "image_to_guest").error(3);
    assert!(error["hint"].as_str().unwrap().contains("pipefail"), "{error}");
}

#[test]
#[ignore = "needs root"]
fn every_pipeline_that_the_script_lists_has_a_test() {
    let rig = Rig::start();
    let names = pipeline(&rig, "", "");
    let tests = ["docs/pipelines.rs", "td/passthrough_rig.rs"]
        .map(|file| std::fs::read_to_string(repository().join("tests").join(file)).unwrap());
    let tests = tests.concat();
    assert_eq!(names.text().lines().count(), 9, "{names:#?}");
    for name in names.text().lines() {
        assert!(tests.contains(&format!("\"{name}\"")), "{name}");
    }
    assert_eq!(pipeline(&rig, "", "each").text(), "");
    define(&rig, &foreign("other", ""));
    let each = pipeline(&rig, "", "each");
    assert_eq!(each.text(), "{\"name\":\"other\",\"state\":\"shut off\",\"ip\":null}\n");
}

#[test]
#[ignore = "needs root"]
fn example_makefile_starts_and_deletes_guests() {
    let rig = Rig::start_for_booted_guests();
    std::fs::copy(guest_image(false), rig.scratch().join("guest.qcow2")).unwrap();
    rig.tool("tdx-pool", ["import", "guest.qcow2"]).document();
    let before = rig.state();
    let make = |targets: &str| {
        let file = repository().join("examples/Makefile");
        let settings = "SECURITY=none MEMORY=256M VCPUS=1 FLAGS='--virt-type qemu'";
        rig.shell(&format!("make -s -f {} {settings} {targets}", file.display()))
    };
    assert_eq!(make("up").text(), "web1\nweb2\n");
    let made = rig.state();
    assert_eq!(make("web1.up web2.up").text(), "web1\nweb2\n");
    assert_eq!(rig.state(), made);
    let names = "tdx-td list | jq -r '.items[] | select(.state == \"running\") | .name'";
    assert_eq!(rig.shell(names).text(), "web1\nweb2\n");
    let ip = make("web1.ip").text().lines().last().unwrap().to_owned();
    assert!(ip.starts_with("192.168.122."), "{ip}");
    // A shut-off guest is started. A guest that differs from the request is kept and reported.
    rig.shell("tdx-td stop web2 --force").document();
    make("web2.up").text();
    assert_eq!(rig.shell(names).text(), "web1\nweb2\n");
    assert_eq!(make("web2.up MEMORY=512M").status, Some(2));
    make("down").text();
    make("web1.down").text();
    assert_eq!(rig.state(), before);
}

#[test]
#[ignore = "needs root"]
fn overlay_creates_a_disk_for_a_domain_that_the_user_defines() {
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
    // The overlay is an orphan until a domain or an image refers to it.
    let orphans = rig.tool("tdx-pool", ["cleanup", "--yes"]).document();
    assert_eq!(orphans["changed"], true);
    assert_eq!(volumes(&rig), ["guest.qcow2"]);
}

#[test]
#[ignore = "needs root"]
fn demo_runs_to_its_end_and_leaves_nothing() {
    let run = Run::of(tools::on_path(repository().join("examples/demo")), b"");
    assert!(run.text().contains("Nothing is left"), "{run:#?}");
}
