//! Devices in D3cold, whose configuration space reads as all ones: on a real kernel with a real IOMMU (rig
//! 2), where files stand in for the attributes of such a device.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use serde_json::{Value, json};

use crate::KERNEL;
use crate::support::kernel::Kernel;
use crate::support::tools::Run;

fn gpu<'a>(kernel: &Kernel, words: impl IntoIterator<Item = &'a str>) -> Run {
    kernel.tool("tdx-gpu", words)
}

/// A network card with a serial number.
fn card(kernel: &Kernel) -> String {
    let names = kernel.shell("tdx-iommu scan --driver e1000e | jq -r '.items[-1] | .bdf, .serial'");
    let (bdf, serial) = names.text().trim().split_once('\n').unwrap();
    assert_eq!(serial.len(), 16, "{names:?}");
    bdf.to_owned()
}

/// Makes a device look as in D3cold until [`wake`]. `wakes` says whether reading its configuration space
/// wakes the device.
fn sleep(kernel: &Kernel, bdf: &str, wakes: bool) {
    let device = format!("/sys/bus/pci/devices/{bdf}");
    let silent = "head -c 4096 /dev/zero | tr '\\0' '\\377' >/tmp/config && \
        mount --bind /tmp/config $device/config";
    let config = if wakes { ":" } else { silent };
    let line = format!(
        "device={device}; echo D3cold >/tmp/power_state && \
         mount --bind /tmp/power_state $device/power_state && {config}"
    );
    kernel.shell(&line).text();
}

fn wake(kernel: &Kernel, bdf: &str) {
    let line = format!("cd /sys/bus/pci/devices/{bdf} && umount power_state; umount config; true");
    kernel.shell(&line).text();
}

fn driver(kernel: &Kernel, bdf: &str) -> String {
    let link = kernel.shell(&format!("basename $(readlink /sys/bus/pci/devices/{bdf}/driver)"));
    link.text().trim().to_owned()
}

/// The record of a device, in one of the two directories.
fn record(kernel: &Kernel, file: &str) -> Value {
    serde_json::from_str(kernel.shell(&format!("cat {file}")).text()).unwrap()
}

#[test]
#[ignore = "needs root"]
fn unbind_and_bind_at_boot_recognise_a_sleeping_device() {
    let kernel = KERNEL.lock();
    let bdf = card(&kernel);
    let bdf = bdf.as_str();
    let bound = format!("/run/tdx/bound/{bdf}");
    let saved = format!("/etc/tdx/bind.d/{bdf}.json");
    gpu(&kernel, ["bind", bdf, "--memory", "64M"]).document();
    let serial = record(&kernel, &bound)["identity"]["serial"].clone();
    assert!(serial.is_string(), "{serial}");
    gpu(&kernel, ["unbind", bdf]).document();

    for (wakes, all) in [(true, bdf), (false, bdf), (false, "--all")] {
        gpu(&kernel, ["bind", bdf, "--memory", "64M"]).document();
        sleep(&kernel, bdf, wakes);
        let plan = gpu(&kernel, ["unbind", bdf, "--dry-run"]).item();
        assert_eq!((&plan["action"], &plan["driver"]), (&json!("unbind"), &json!("e1000e")));
        let item = gpu(&kernel, ["unbind", all]).item();
        assert_eq!((&item["action"], &item["driver"]), (&json!("unbind"), &json!("e1000e")));
        wake(&kernel, bdf);
        assert_eq!(driver(&kernel, bdf), "e1000e");
        kernel.shell(&format!("! test -e {bound}")).text();
    }

    // The record of a killed command, whose device sleeps by then.
    gpu(&kernel, ["bind", bdf, "--memory", "64M"]).document();
    kernel.shell(&format!("sed -i 's/\"committed\": true/\"committed\": false/' {bound}")).text();
    sleep(&kernel, bdf, false);
    assert_eq!(gpu(&kernel, ["unbind", "--stale"]).item()["driver"], "e1000e");
    wake(&kernel, bdf);

    // A second `bind --persist` while the device sleeps keeps the serial number in the record.
    gpu(&kernel, ["bind", bdf, "--persist", "--memory", "64M"]).document();
    sleep(&kernel, bdf, false);
    let again = gpu(&kernel, ["bind", bdf, "--persist", "--memory", "64M"]).document();
    assert_eq!(
        (&again["changed"], &again["items"][0]["persistent"]),
        (&json!(false), &json!(true))
    );
    assert_eq!(record(&kernel, &saved)["identity"]["serial"], serial);
    // The machine boots while the device sleeps.
    let reboot = format!(
        "rm -r /run/tdx && cd /sys/bus/pci/devices/{bdf} && echo {bdf} >driver/unbind && \
         echo >driver_override && echo {bdf} >/sys/bus/pci/drivers/e1000e/bind"
    );
    kernel.shell(&reboot).text();
    let item = gpu(&kernel, ["bind", "--persisted"]).item();
    assert_eq!((&item["action"], &item["driver"]), (&json!("bind"), &json!("vfio-pci")));
    wake(&kernel, bdf);
    // The device was bound while it slept; it shows its serial number again before unbind.
    let item = gpu(&kernel, ["unbind", bdf]).item();
    assert_eq!((&item["action"], &item["was_persistent"]), (&json!("unbind"), &json!(true)));
    assert_eq!(driver(&kernel, bdf), "e1000e");

    // Another device, with another serial number, is not the recorded one. VFIO has the device, so that
    // unbind gives the device to the driver that matches, and does not only remove a record.
    gpu(&kernel, ["bind", bdf, "--memory", "64M"]).document();
    let other = format!(
        "sed -i 's/{}/0000000000000001/; s/\"e1000e\"/\"none\"/' {bound}",
        serial.as_str().unwrap()
    );
    kernel.shell(&other).text();
    let item = gpu(&kernel, ["unbind", bdf]).item();
    assert_eq!((&item["action"], &item["driver"]), (&json!("unbind"), &json!("e1000e")));
    kernel.shell(&format!("! test -e {bound}")).text();
}
