//! The plans of `tdx-gpu unbind`, on machines made of files.

use serde_json::{Value, json};

use crate::support::hosts;
use crate::support::tree::Tree;

/// The GPU of the server that is bound to VFIO.
const BDF: &str = "0000:83:00.0";

/// Records that the device was bound to nvidia before.
fn record(host: &Tree, serial: Value) {
    let text = json!({
        "bdf": BDF,
        "identity": {"vendor": 0x10de, "device": 0x2330, "subsystem_vendor": 0x10de,
            "subsystem_device": 0x16c1, "class": 0x03_0200, "serial": serial},
        "driver": "nvidia", "driver_override": null, "bound_to": "vfio-pci", "domain": null,
        "committed": true,
    });
    host.file(&format!("run/tdx/bound/{BDF}"), text.to_string());
}

fn plan(host: &Tree) -> Value {
    host.run("tdx-gpu", &format!("unbind {BDF} --dry-run")).document()
}

#[test]
fn unbind_accepts_a_device_without_a_serial_number_as_the_recorded_one() {
    let host = hosts::server();
    let folder = host.folder(BDF);
    record(&host, json!("48b02d1234567890"));
    std::fs::remove_file(host.path(&format!("{folder}/serial_number"))).ok();
    host.file(&format!("{folder}/config"), [0xff; 4096]);
    for state in ["D3cold", "D0"] {
        host.file(&format!("{folder}/power_state"), format!("{state}\n"));
        let item = plan(&host)["items"][0].clone();
        let planned = (&item["action"], &item["driver"]);
        assert_eq!(planned, (&json!("unbind"), &json!("nvidia")), "{state}");
    }
    // A device with another serial number is another device: unbind gives it to the driver that matches.
    host.file(&format!("{folder}/serial_number"), "00-00-00-00-00-00-00-01\n");
    let item = plan(&host)["items"][0].clone();
    assert_eq!((&item["action"], &item["driver"]), (&json!("unbind"), &Value::Null));
}

#[test]
fn unbind_warns_of_a_driver_override_that_driverctl_has_saved() {
    let host = hosts::server();
    record(&host, Value::Null);
    assert_eq!(plan(&host)["warnings"], json!([]));
    host.file(&format!("etc/driverctl.d/{BDF}"), "vfio-pci\n");
    let said = format!(
        "driverctl sets the driver override \"vfio-pci\" of {BDF} at every boot; \
         to stop that, run driverctl unset-override {BDF}"
    );
    assert_eq!(plan(&host)["warnings"], json!([said]));
}
