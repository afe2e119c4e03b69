//! `tdx-iommu` on a real kernel with a real IOMMU (rig 2): the output of the tool agrees with the kernel.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use serde_json::{Value, json};

use crate::support::kernel::Kernel;
use crate::support::tools;
use crate::support::wait;

/// The document of a run of `check`, whose exit status must agree with it.
#[track_caller]
fn check(kernel: &Kernel, line: &str) -> Value {
    let run = kernel.tool("tdx-iommu", ["check"].into_iter().chain(line.split(' ')));
    let document: Value =
        serde_json::from_str(&run.stdout).unwrap_or_else(|error| panic!("{error}: {run:#?}"));
    let viable = document["items"].as_array().unwrap().iter().all(|item| item["viable"] == true);
    assert_eq!(run.status, Some(if viable { 0 } else { 10 }), "{run:#?}");
    document
}

/// The codes for one device in a document of `check` or `scan`.
#[track_caller]
fn blockers(document: &Value, bdf: &str) -> Vec<String> {
    let mut items = document["items"].as_array().unwrap().iter();
    let item = items.find(|item| item["bdf"] == bdf).unwrap_or_else(|| panic!("no {bdf}"));
    serde_json::from_value(item["blockers"].clone()).unwrap()
}

/// The addresses of the devices behind a root port, by the port's slot.
fn behind(kernel: &Kernel, slot: &str) -> Vec<String> {
    let line = format!("cd /sys/bus/pci/devices/0000:00:{slot} && ls -d 0000:*:??.?");
    kernel.shell(&line).text().lines().map(str::to_owned).collect()
}

const NOTHING: [&str; 0] = [];

#[test]
#[ignore = "needs root"]
fn scan_shows_every_device_as_the_kernel_does() {
    let kernel = Kernel::start();
    let scan = kernel.tool("tdx-iommu", ["scan"]).document();
    let items = scan["items"].as_array().unwrap();
    assert_eq!(scan["warnings"], json!([]));
    // Every device, and its properties as lspci reads them from the same kernel.
    let listing = kernel.shell("lspci -Dnmm -A linux-sysfs").text().to_owned();
    assert_eq!(listing.lines().count(), items.len());
    for (line, item) in listing.lines().zip(items) {
        let words: Vec<String> =
            line.split(' ').map(|word| word.trim_matches('"').to_owned()).collect();
        assert_eq!(words[0], item["bdf"].as_str().unwrap());
        assert_eq!(words[1], item["class"].as_str().unwrap()[..4]);
        assert_eq!((&words[2], &words[3]), (&text(item, "vendor_id"), &text(item, "device_id")));
    }
    let mut named = 0;
    for item in items {
        let bdf = item["bdf"].as_str().unwrap();
        let driver = format!("basename $(readlink /sys/bus/pci/devices/{bdf}/driver) || echo null");
        if named < 5 {
            let driver = kernel.shell(&format!("{driver} 2>/dev/null")).text().trim().to_owned();
            assert_eq!(driver.replace("null", ""), text(item, "driver"), "{bdf}");
            named += 1;
        }
        assert!(item["class_name"].is_string(), "pci.ids is installed: {item}");
        assert!(item["iommu_group"].is_u64(), "{item}");
    }
    let role = |slot: &str| -> Vec<String> {
        let devices = behind(&kernel, slot);
        let of = |bdf: &String| items.iter().find(|item| item["bdf"] == *bdf).unwrap();
        devices.iter().map(|bdf| text(of(bdf), "role")).collect()
    };
    assert_eq!(role("02.0"), ["network"]);
    assert_eq!(role("04.0"), ["gpu", "gpu-audio"]);
    assert_eq!(role("06.0"), ["bridge"]);
    assert_eq!(role("10.0"), ["storage"]);
    assert_eq!(role("11.0"), ["usb"]);
    // e1000e has a serial number, derived from its hardware address.
    let nic = &behind(&kernel, "02.0")[0];
    let item = items.iter().find(|item| item["bdf"] == *nic).unwrap();
    assert_eq!(text(item, "serial"), "525400ffff123456");
    assert_eq!(item["path"], "0000_00_02.0-00_00.0");
    assert!(item["reset_methods"].to_string().contains("bus"), "{item}");
    // check reads an item of scan that jq selects, as in the README.
    let pipe = "tdx-iommu scan | jq '.items[] | select(.path==\"0000_00_02.0-00_00.0\")' | \
        tdx-iommu check -";
    assert_eq!(kernel.shell(pipe).document()["items"][0]["viable"], true);
    assert_eq!(kernel.shell("tdx-iommu scan | head -c 1 >/dev/null").status, Some(0));

    // A capture without secrets (serial numbers, the host's name) yields the same document elsewhere.
    let repository = tools::repository().display().to_string();
    kernel.shell(&format!("{repository}/examples/capture-sysfs /tmp/captured")).text();
    let captured = kernel.tool("tdx-iommu", ["scan", "--sysroot", "/tmp/captured"]).document();
    let without_secrets = |document: &Value| {
        let mut items = document["items"].as_array().unwrap().clone();
        for item in &mut items {
            item["host"] = Value::Null;
            if item["serial"].is_string() {
                item["serial"] = Value::Null;
            }
        }
        items
    };
    assert_eq!(without_secrets(&captured), without_secrets(&scan));
    let groups = kernel.tool("tdx-iommu", ["groups"]).document();
    let captured = kernel.tool("tdx-iommu", ["groups", "--sysroot", "/tmp/captured"]).document();
    assert_eq!(without_secrets(&captured), without_secrets(&groups));
    let secrets =
        kernel.shell("grep -rl -e 525400ffff123456 -e 52:54:00 -e 52-54-00 /tmp/captured");
    assert_eq!(secrets.stdout, "");
}

fn text(item: &Value, key: &str) -> String {
    item[key].as_str().unwrap_or_default().to_owned()
}

#[test]
#[ignore = "needs root"]
fn check_agrees_with_the_kernel() {
    let kernel = Kernel::start();
    let nics = [behind(&kernel, "02.0"), behind(&kernel, "03.0")].concat();

    // A disk with a mounted file system, and then without it.
    let data = kernel.nvme("rig-data");
    let found = blockers(&check(&kernel, &data), &data);
    assert_eq!(found, ["HOST_DISK_MOUNTED", "SENSITIVE_CLASS"]);
    kernel.shell("umount /mnt/data").text();
    assert_eq!(blockers(&check(&kernel, &data), &data), NOTHING);
    // The disk is mounted in another mount namespace: the kernel still claims the disk.
    let mount = "unshare -m sh -c 'mount /dev/nvme0n1 /mnt/data && sleep 1000' >/dev/null 2>&1 & \
        for _ in $(seq 100); do grep -qs nvme0n1 /proc/$!/mountinfo && break; sleep 0.1; done; echo $!";
    let hidden = kernel.shell(mount).text().trim().to_owned();
    assert_eq!(blockers(&check(&kernel, &data), &data), ["HOST_DISK_MOUNTED"]);
    kernel.shell(&format!("pkill -P {hidden}")).text();
    wait::wait_for("the disk to be free", || {
        (check(&kernel, &data)["items"][0]["viable"] == true).then_some(())
    });
    // Swap uses the disk, without a mounted file system.
    kernel.shell("mkswap -q /dev/nvme0n1 && swapon /dev/nvme0n1").text();
    let disk = kernel.shell("basename $(ls -d /sys/bus/pci/devices/*/nvme/*/nvme0n1)");
    assert_eq!(disk.text().trim(), "nvme0n1", "the one with a backing file is the first");
    assert!(blockers(&check(&kernel, &data), &data).contains(&"HOST_DISK_ROOT".to_owned()));
    kernel.shell("swapoff /dev/nvme0n1").text();

    // The default route uses a bridge that the interface belongs to.
    assert_eq!(blockers(&check(&kernel, &nics[0]), &nics[0]), NOTHING);
    let name = kernel.shell(&format!("ls /sys/bus/pci/devices/{}/net", nics[0]));
    let name = name.text().trim();
    let route = format!(
        "ip link add br0 type bridge && ip link set {name} master br0 up && ip link set br0 up && \
         ip address add 10.0.2.15/24 dev br0 && ip route add default via 10.0.2.2"
    );
    kernel.shell(&route).text();
    let found = blockers(&check(&kernel, &nics[0]), &nics[0]);
    assert_eq!(found, ["HOST_NET_DEFAULT_ROUTE", "SENSITIVE_CLASS"]);
    kernel.shell("ip link delete br0").text();
    assert_eq!(blockers(&check(&kernel, &nics[0]), &nics[0]), NOTHING);

    // A GPU and its audio function; the emulated card reports a connected monitor.
    let gpu = behind(&kernel, "04.0");
    let found = check(&kernel, &gpu[0]);
    assert_eq!(found["items"].as_array().unwrap().len(), 2);
    assert_eq!(blockers(&found, &gpu[0]), ["CONSOLE_GPU"]);
    kernel.shell("echo off >/sys/class/drm/card0-Virtual-1/status").text();
    assert_eq!(blockers(&check(&kernel, &gpu[0]), &gpu[0]), NOTHING);

    // Two network cards are behind a bridge without ACS: the tool refuses one alone, and so does the kernel.
    let old = kernel.shell("ls -d /sys/bus/pci/devices/0000:00:06.0/0000:*/0000:*");
    let old: Vec<String> =
        old.text().lines().map(|path| path.rsplit('/').next().unwrap().to_owned()).collect();
    assert_eq!(old.len(), 2);
    let document = check(&kernel, &old[0]);
    assert_eq!(blockers(&document, &old[0]), ["HOST_DRIVER"]);
    let why = document["items"][0]["explanations"].to_string();
    assert!(why.contains("without ACS"), "{why}");
    kernel.bind(&old[0]);
    let group = document["items"][0]["iommu_group"].as_u64().unwrap();
    // The kernel refuses to open the group as long as e1000 drives the other card.
    let open = format!("f=/dev/vfio/{group}; /run/rig/hold {group} {} </dev/null", old[0]);
    let refused = kernel.shell(&open);
    assert_ne!(refused.status, Some(0), "{refused:#?}");
    assert_eq!(blockers(&check(&kernel, &old[0]), &old[0]), ["HOST_DRIVER"]);
    let both = old.join(" ");
    assert_eq!(blockers(&check(&kernel, &both), &old[0]), NOTHING);
    kernel.bind(&old[1]);
    let document = check(&kernel, &old[0]);
    assert_eq!(blockers(&document, &old[0]), NOTHING);
    assert!(document["items"][0]["findings"].to_string().contains("UNLISTED_MEMBER"));
    assert_eq!(kernel.shell(&open).text(), "held\n");

    // Virtual functions: the tool refuses the physical function, and so does the kernel.
    let pf = kernel.nvme("rig-pf");
    assert_eq!(blockers(&check(&kernel, &pf), &pf), NOTHING);
    kernel.shell(&format!("echo 2 >/sys/bus/pci/devices/{pf}/sriov_numvfs")).text();
    let scan = kernel.tool("tdx-iommu", ["scan"]).document();
    assert_eq!(blockers(&scan, &pf), ["PF_HAS_VFS"]);
    let mut items = scan["items"].as_array().unwrap().iter();
    let vf = items.find(|item| item["sriov"]["physfn"] == pf.as_str()).unwrap();
    assert_eq!(vf["blockers"], json!([]));
    let bind = format!(
        "cd /sys/bus/pci/devices/{pf}; echo vfio-pci >driver_override; echo {pf} >driver/unbind; \
         echo {pf} >/sys/bus/pci/drivers_probe; [ ! -e driver ]; dmesg | grep 'PF with SR-IOV'"
    );
    kernel.shell(&bind).text();

    // The USB controller with a keyboard, and the chipset.
    let usb = &behind(&kernel, "11.0")[0];
    assert_eq!(blockers(&check(&kernel, usb), usb), ["SENSITIVE_CLASS"]);
    let chipset = check(&kernel, "00:1f.2");
    assert_eq!(blockers(&chipset, "0000:00:1f.0"), ["SENSITIVE_CLASS"]);
    assert!(blockers(&check(&kernel, "00:02.0"), "0000:00:02.0").contains(&"NONENDPOINT".into()));
}

#[test]
#[ignore = "needs root"]
fn check_finds_the_process_that_holds_a_device() {
    let kernel = Kernel::start();
    let nic = behind(&kernel, "03.0").remove(0);
    kernel.bind(&nic);
    assert_eq!(blockers(&check(&kernel, &nic), &nic), NOTHING);
    let held = kernel.hold(&nic);
    let document = check(&kernel, &nic);
    assert_eq!(blockers(&document, &nic), ["IN_USE_BY_VM"]);
    let message = document["items"][0]["findings"].to_string();
    assert!(message.contains(" (hold) has ") && message.contains("/dev/vfio/"), "{message}");
    // Only check looks for open files.
    let scan = kernel.tool("tdx-iommu", ["scan", &nic]).item();
    assert_eq!((&scan["blockers"], &scan["driver"]), (&json!([]), &json!("vfio-pci")));
    // A user who may not examine other processes gets a warning.
    let other = format!("setpriv --reuid 65534 --clear-groups tdx-iommu check {nic}");
    let document: Value = serde_json::from_str(&kernel.shell(&other).stdout).unwrap();
    assert!(document["warnings"].to_string().contains("run this command as root"), "{document}");
    drop(held);
    wait::wait_for("the device to be free", || {
        (check(&kernel, &nic)["items"][0]["viable"] == true).then_some(())
    });
}

#[test]
#[ignore = "needs root"]
fn check_on_a_kernel_without_iommu_refuses_every_device() {
    let kernel = Kernel::start_with("intel_iommu=off pcie_acs_override=downstream");
    let nic = behind(&kernel, "03.0").remove(0);
    let document = check(&kernel, &nic);
    assert_eq!(blockers(&document, &nic), ["NO_IOMMU"]);
    let groups = kernel.tool("tdx-iommu", ["groups"]).document();
    assert_eq!(groups["items"], json!([]));
    let scan = kernel.tool("tdx-iommu", ["scan", &nic]).document();
    assert!(scan["warnings"].to_string().contains("pcie_acs_override=downstream"), "{scan}");
}
