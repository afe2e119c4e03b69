//! Measurements that are predicted before a start, and what libvirt then starts.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::*;
use crate::support::mrtd::expected_mrtd;
use crate::support::quote_samples::{ATTRIBUTES, CURRENT, MRTD, OWNER_VALUES};

/// The options of the guests, without those of their kind.
const SMALL: &str = "-i guest.qcow2 --memory 512M --vcpus 1 --name td1";

/// The options of every scenario and template that yields a trust domain.
fn kinds(rig: &Rig) -> Vec<String> {
    let names = rig.tool("tdx-td", ["scenario", "list", "--format", "name"]);
    let yields_a_trust_domain = |name: &&str| {
        let line = format!("tdx-td render {SMALL} --scenario {name} --security tdx");
        rig.shell(&line).status == Some(0)
    };
    let scenarios: Vec<&str> = names.text().lines().filter(yields_a_trust_domain).collect();
    assert!(scenarios.contains(&"td") && scenarios.contains(&"securevm"), "{scenarios:?}");
    let upstream = repository().join("examples/templates/trust_domain.xml");
    let mut kinds =
        vec![String::new(), format!("--mr-owner {OWNER}"), format!("-t {}", upstream.display())];
    kinds.extend(scenarios.iter().map(|name| format!("--scenario {name} --security tdx")));
    for name in CANONICAL.iter().filter(|name| **name != "regular_vm") {
        let file = format!("{name}.xml.template");
        rig.template(&file, &without(&canonical(name), "vsock"));
        kinds.push(format!("-t {file} --fix-template"));
    }
    kinds
}

/// The MRTD that a pipeline into `tdx-attest measure` predicts.
#[track_caller]
fn predicted(rig: &Rig, producer: &str) -> Value {
    let document = rig.shell(&format!("{producer} | tdx-attest measure -")).document();
    let items = document["items"].as_array().unwrap();
    let mrtd = items.iter().find(|item| item["register"] == "mrtd").unwrap();
    mrtd["value"].clone()
}

/// The quote of a trust domain with these launch values and this MRTD, except for its signature.
fn quote(launch: &Value, mrtd: &str) -> Vec<u8> {
    let mrtd = common::text::from_hex(mrtd).unwrap();
    let attributes = launch["attributes"].as_u64().unwrap().to_le_bytes();
    let owner = OWNER_VALUES.map(|(name, offset)| {
        let value = launch[name].as_str().map(|value| STANDARD.decode(value).unwrap());
        (offset, value.unwrap_or_else(|| vec![0; 48]))
    });
    let owner = owner.iter().map(|(offset, value)| (*offset, &value[..]));
    let fields: Vec<(usize, &[u8])> =
        [(MRTD, &mrtd[..]), (ATTRIBUTES, &attributes)].into_iter().chain(owner).collect();
    CURRENT.with(&fields)
}

/// The failed checks of a quote that is compared with what a pipeline predicts, with their codes.
#[track_caller]
fn failed(rig: &Rig, producer: &str, quote: &[u8]) -> Vec<String> {
    fs::write(rig.scratch().join("quote.bin"), quote).unwrap();
    let verify = format!("tdx-attest verify quote.bin --no-collateral --at {}", CURRENT.at);
    // The signature is that of another quote, so the answer is no.
    let line = format!("{producer} | tdx-attest measure - | {verify} --expect -");
    let document = rig.shell(&line).answer(10);
    let items = document["items"].as_array().unwrap().iter();
    let failed = items.filter(|item| item["result"] == "failed");
    let named = failed
        .map(|item| [&item["check"], &item["code"]].map(|text| text.as_str().unwrap_or("null")));
    named.map(|names| names.join(" ")).collect()
}

#[test]
#[ignore = "needs root"]
fn predicted_mrtd_is_that_of_the_firmware_that_qemu_is_given() {
    let rig = rig_with_image();
    for flags in kinds(&rig) {
        let render = format!("tdx-td render {SMALL} {flags}");
        let rendered = predicted(&rig, &render);
        rig.shell(&format!("tdx-td new {SMALL} {flags}")).document();
        let argv = argv(&rig);
        let bios = argv.iter().skip_while(|argument| *argument != "-bios").nth(1).unwrap();
        let firmware = fs::read(rig.path(bios)).unwrap();
        let [by_page, by_section] = [false, true].map(|order| expected_mrtd(&firmware, order));
        let expected = json!(by_page);
        assert_eq!(rendered, expected, "{flags}");
        assert_eq!(predicted(&rig, "tdx-td show td1"), expected, "{flags}");
        assert_eq!(predicted(&rig, "virsh dumpxml td1"), expected, "{flags}");
        assert_eq!(rig.shell("tdx-td show td1").item()["firmware"], json!(bios), "{flags}");

        let launch = launch_object(&argv);
        for producer in [&*render, "tdx-td show td1", "virsh dumpxml td1"] {
            let checks = failed(&rig, producer, &quote(&launch, &by_page));
            assert_eq!(checks, ["signature QUOTE_SIGNATURE"], "{flags}: {producer}");
        }
        let checks = failed(&rig, &render, &quote(&launch, &by_section));
        assert_eq!(checks, ["mrtd MRTD_PAGE_ORDER", "signature QUOTE_SIGNATURE"], "{flags}");
        rig.tool("tdx-td", ["delete", "td1", "--yes", "--timeout", "0"]).item();
    }
}
