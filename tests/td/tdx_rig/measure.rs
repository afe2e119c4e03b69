//! Measurements that are predicted before a start, and what libvirt then starts.

use super::*;
use crate::support::mrtd::expected_mrtd;

/// The MRTD that a pipeline into `tdx-attest measure` predicts.
#[track_caller]
fn predicted(rig: &Rig, producer: &str) -> Value {
    let document = rig.shell(&format!("{producer} | tdx-attest measure -")).document();
    let items = document["items"].as_array().unwrap();
    let mrtd = items.iter().find(|item| item["register"] == "mrtd").unwrap();
    mrtd["value"].clone()
}

#[test]
#[ignore = "needs root"]
fn predicted_mrtd_is_that_of_the_firmware_that_qemu_is_given() {
    let rig = rig_with_image();
    let upstream = repository().join("examples/templates/trust_domain.xml");
    let mut kinds = vec![
        String::new(),
        "--scenario td".to_owned(),
        "--scenario securevm".to_owned(),
        format!("-t {}", upstream.display()),
    ];
    for name in CANONICAL.iter().filter(|name| **name != "regular_vm") {
        let file = format!("{name}.xml.template");
        rig.template(&file, &without(&canonical(name), "vsock"));
        kinds.push(format!("-t {file} --fix-template"));
    }
    let small = "-i guest.qcow2 --memory 512M --vcpus 1 --name td1";
    for flags in kinds {
        let rendered = predicted(&rig, &format!("tdx-td render {small} {flags}"));
        rig.shell(&format!("tdx-td new {small} {flags}")).document();
        let argv = argv(&rig);
        let bios = argv.iter().skip_while(|argument| *argument != "-bios").nth(1).unwrap();
        let expected = json!(expected_mrtd(&fs::read(rig.path(bios)).unwrap(), false));
        assert_eq!(rendered, expected, "{flags}");
        assert_eq!(predicted(&rig, "tdx-td show td1"), expected, "{flags}");
        assert_eq!(predicted(&rig, "virsh dumpxml td1"), expected, "{flags}");
        assert_eq!(rig.shell("tdx-td show td1").item()["firmware"], json!(bios), "{flags}");
        rig.tool("tdx-td", ["delete", "td1", "--yes", "--timeout", "0"]).item();
    }
}
