//! `tdx-iommu resolve` on machines made of files.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use serde_json::{Value, json};

use crate::support::hosts;
use crate::support::tools::Run;
use crate::support::tree::Tree;

/// Resolves a configuration with this text on a machine.
fn resolve(host: &Tree, text: &str, more: &str) -> Run {
    host.file("passthrough.yaml", text);
    let config = host.path("passthrough.yaml");
    host.iommu(&format!("resolve --config {} {more} --json", config.display()))
}

/// One guest with these requests; each is the content of a match.
fn guest(name: &str, requests: &[&str]) -> String {
    let request = |inside: &&str| format!("      - match: {{{inside}}}\n");
    let requests: String = requests.iter().map(request).collect();
    let requests = if requests.is_empty() { " []\n".to_owned() } else { format!("\n{requests}") };
    format!("  {name}:\n    passthrough_devices:{requests}")
}

fn one(requests: &[&str]) -> String {
    format!("vms:\n{}", guest("win10", requests))
}

/// The devices of the only guest, with the number of the request that chose each.
fn chosen(run: &Run) -> Vec<(String, Value)> {
    let item = run.item();
    assert_eq!(item["vm"], "win10");
    let devices = item["devices"].as_array().unwrap().iter();
    devices.map(|d| (d["bdf"].as_str().unwrap().to_owned(), d["request"].clone())).collect()
}

fn pairs(wanted: &[(&str, Option<u32>)]) -> Vec<(String, Value)> {
    wanted.iter().map(|(bdf, request)| ((*bdf).to_owned(), json!(request))).collect()
}

#[test]
fn resolve_adds_the_iommu_group_of_a_device_without_bridges() {
    let host = hosts::desktop();
    let console = resolve(&host, &one(&["vendor_id: 10de, class: '03'"]), "").error(5);
    assert_eq!(console["code"], "CONSOLE_GPU", "{console}");
    let force = "--force CONSOLE_GPU";
    let run = resolve(&host, &one(&["vendor_id: 10de, class: '03'"]), force);
    assert!(run.document()["warnings"].to_string().contains("CONSOLE_GPU"), "{run:?}");
    let all = chosen(&run);
    assert!(all.len() > 1, "{all:?}");
    let device = &run.item()["devices"][0];
    assert_eq!((&device["vendor_id"], &device["request"]), (&json!("10de"), &json!(1)), "{device}");
    let group = &device["iommu_group"];
    for device in run.item()["devices"].as_array().unwrap() {
        assert_eq!((&device["iommu_group"], &device["is_bridge"]), (group, &json!(false)));
    }
    // The audio function belongs to the same group, so no device is listed twice.
    let both = resolve(
        &host,
        &one(&["vendor_id: 10de, class: '03'", "vendor_id: 10de, class: '0403'"]),
        force,
    );
    let bdfs = |all: Vec<(String, Value)>| all.into_iter().map(|(bdf, _)| bdf).collect::<Vec<_>>();
    assert_eq!(bdfs(chosen(&both)), bdfs(all));
}

#[test]
fn resolve_finds_a_device_by_every_kind_of_criterion() {
    let host = hosts::server();
    let gpu = pairs(&[("0000:53:00.0", Some(1))]);
    for inside in [
        "bdf: 53:00.0",
        "path: 0000_50_01.0-00_00.0-00_00.0-00_00.0",
        "serial: 48B02DFFFE123456",
        "vendor_id: '10DE', device_id: 2330, select_index: 4",
        "vendor_device_id: '10de:2330', select_index: 4",
        "class: '0302', driver: NVIDIA, select_index: 4",
        "subsystem_id: '10de:16c1', select_index: 4",
        "subsystem_vendor_id: 10de, subsystem_device_id: 16c1, select_index: 4",
        "name: 'h100|gh100', class: '03', select_index: 4",
    ] {
        assert_eq!(chosen(&resolve(&host, &one(&[inside]), "")), gpu, "{inside}");
    }
    let count = |inside: &str| chosen(&resolve(&host, &one(&[inside]), "")).len();
    assert_eq!(count("vendor_device_id: '10de:2330', count: all"), 8);
    assert_eq!(count("vendor_device_id: '10de:2330', count: 3"), 3);
    assert_eq!(count("vendor_device_id: '10de:ffff', optional: true"), 0);
    assert_eq!(count("vendor_device_id: '10de:2330', select_index: 9, optional: true"), 0);
    assert_eq!(chosen(&resolve(&host, &one(&[]), "")), []);
}

/// The eighth GPU is bound to VFIO. The record or its modalias shows that it is the eighth GPU of the driver
/// nvidia.
#[test]
fn resolve_finds_a_device_by_the_driver_it_had_before_vfio() {
    let host = hosts::server();
    let last = &one(&["driver: nvidia, select_index: 7"]);
    resolve(&host, last, "").error(4);
    let bdf = "0000:83:00.0";
    let record = json!({
        "bdf": bdf,
        "identity": {"vendor": 0x10de, "device": 0x2330, "subsystem_vendor": null,
            "subsystem_device": null, "class": null, "serial": null},
        "driver": "nvidia", "driver_override": null, "bound_to": "vfio-pci", "domain": null,
        "committed": true,
    });
    host.file(&format!("run/tdx/bound/{bdf}"), record.to_string());
    assert_eq!(chosen(&resolve(&host, last, "")), pairs(&[(bdf, Some(1))]));
    // The device is found by its present driver.
    let now = &one(&["driver: vfio-pci"]);
    assert_eq!(chosen(&resolve(&host, now, "")), pairs(&[(bdf, Some(1))]));
}

#[test]
fn resolve_refuses_and_names_impossible_requests() {
    let host = hosts::server();
    let refused = |text: &str, status: i32, says: &str| {
        let error = resolve(&host, text, "").error(status);
        let text = error.to_string();
        assert!(text.contains(says), "{text} lacks {says}");
        error
    };
    refused(
        &one(&["bdf: 53:00.0", "vendor_id: dead"]),
        4,
        "request 2 of guest win10 matches no device",
    );
    refused(
        &one(&["device_id: 2330, select_index: 8"]),
        4,
        "matches 8 devices, so select_index 8 is too large",
    );
    refused(&one(&["device_id: 2330, count: 9"]), 4, "matches 8 devices, but count is 9");
    refused(&one(&["vendor_idd: 10de"]), 3, "did you mean 'vendor_id'?");
    refused(&one(&["class: '0604'"]), 4, "matches no device");
    let refusal = |bdf| format!("device 0000:{bdf} cannot be given to guest win10");
    let disk = refused(&one(&["driver: nvme"]), 5, &refusal("a1:00.0"));
    assert_eq!(disk["code"], "HOST_DISK_MOUNTED");
    let two = ["bdf: 53:00.0"];
    let text = format!("vms:\n{}{}", guest("a", &["vendor_id: dead"]), guest("b", &two));
    assert_eq!(resolve(&host, &text, "--vm b").item()["vm"], "b");
    let route = refused(&one(&["bdf: c1:00.1"]), 5, &refusal("c1:00.1"));
    assert_eq!(route["code"], "HOST_NET_DEFAULT_ROUTE");
    resolve(&host, &one(&["bdf: c1:00.1"]), "--force HOST_DISK_ROOT").error(2);
    let error = resolve(&host, &text, "--vm c").error(4);
    assert_eq!(error["hint"], "known guests: a, b");
    for text in ["", "vms: {a: {passthrough_devices: }}", "vms:\n\tx: 1\n"] {
        refused(text, 3, "is not a valid passthrough configuration");
    }
    host.iommu("resolve --config /nowhere.yaml --json").error(4);
    let laptop = hosts::laptop();
    let error = resolve(&laptop, &one(&["class: '0302'"]), "").error(5);
    assert_eq!(error["code"], "NO_IOMMU", "{error}");
}

/// A configuration that the original tool accepts.
#[test]
fn resolve_lists_a_device_once_and_warns_of_one_that_two_guests_share() {
    let host = hosts::server();
    let twice = resolve(&host, &one(&["device_id: 2330", "device_id: 2330"]), "");
    let once = resolve(&host, &one(&["device_id: 2330"]), "");
    assert_eq!(chosen(&twice), chosen(&once));
    let warnings = twice.document()["warnings"].clone();
    let bdf = chosen(&once)[0].0.clone();
    let said = format!(
        "requests 1 and 2 of guest win10 both select {bdf}; the guest gets the device once"
    );
    assert_eq!(warnings, json!([said]));

    let both = ["bdf: 53:00.0"];
    let text = format!("vms:\n{}{}", guest("a", &both), guest("b", &both));
    let said = json!(["domains 'a' and 'b' both get 0000:53:00.0: only one of them can run"]);
    let document = resolve(&host, &text, "").document();
    assert_eq!((&document["warnings"], document["items"].as_array().unwrap().len()), (&said, 2));
    // The warning is also given if the command asks for one guest only.
    assert_eq!(resolve(&host, &text, "--vm b").document()["warnings"], said);
}

/// A sleeping device does not show its serial number. A request for a serial number wakes the device.
#[test]
fn resolve_finds_a_sleeping_device_by_its_serial_number() {
    let host = hosts::server();
    let asleep = format!("{}/power_state", host.folder("0000:53:00.0"));
    let serial = format!("{}/serial_number", host.folder("0000:53:00.0"));
    let config = format!("{}/config", host.folder("0000:53:00.0"));
    let mut space = vec![0; 0x110];
    for (at, dword) in [(0x100, 3 | 1 << 16), (0x104, 0xfe12_3456_u32), (0x108, 0x48b0_2dff)] {
        space[at..at + 4].copy_from_slice(&dword.to_le_bytes());
    }
    std::fs::remove_file(host.path(&serial)).ok();
    host.file(&config, space);
    host.file(&asleep, "D3cold\n");
    let found = resolve(&host, &one(&["serial: 48b02dfffe123456"]), "");
    assert_eq!(chosen(&found), pairs(&[("0000:53:00.0", Some(1))]));
}

#[test]
fn optional_accepts_every_boolean_of_yaml() {
    let host = hosts::server();
    for yes in ["yes", "True", "on", "true"] {
        let run = resolve(&host, &one(&[&format!("vendor_id: dead, optional: {yes}")]), "");
        assert_eq!(chosen(&run), [], "{yes}");
    }
    for no in ["no", "False", "off"] {
        resolve(&host, &one(&[&format!("vendor_id: dead, optional: {no}")]), "").error(4);
    }
    resolve(&host, &one(&["vendor_id: dead, optional: maybe"]), "").error(3);
}
