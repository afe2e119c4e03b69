//! Drivers, driver overrides and refusals.

use super::*;

fn eight(kernel: &Kernel) -> Vec<String> {
    (0..8).map(|n| kernel.nvme(&format!("rig-{n}"))).collect()
}

#[test]
#[ignore = "needs root"]
fn bind_moves_devices_to_vfio_and_unbind_returns_them() {
    let kernel = KERNEL.lock();
    let before = state(&kernel);
    let nics = kernel.shell("tdx-iommu scan --driver e1000e --format name").text().to_owned();
    let nic = nics.lines().last().unwrap();

    // A dry run changes nothing.
    let plan = gpu(&kernel, ["bind", nic, "--dry-run"]).document();
    assert_eq!((&plan["changed"], &plan["items"][0]["driver"]), (&json!(true), &json!("vfio-pci")));
    assert_eq!(state(&kernel), before);

    // An item of another device, or of another host, binds nothing.
    for edit in
        [".vendor_id=\"10de\"", ".device_id=\"2330\"", ".serial=.device_id", ".host=\"other\""]
    {
        let line = format!("tdx-iommu scan {nic} | jq '.items[0]{edit}' | tdx-gpu");
        // The emulated card has no serial number to compare.
        if edit.starts_with(".serial") {
            kernel.shell(&format!("{line} bind - -n")).document();
            continue;
        }
        for verb in ["bind -", "unbind -", "check -"] {
            let error = kernel.shell(&format!("{line} {verb}")).error(5);
            assert_eq!(error["code"], "IDENTITY_CHANGED", "{edit}: {error}");
            assert_eq!(state(&kernel), before, "{edit}");
        }
    }

    // One device is bound. A second command finds it bound.
    let bound = gpu(&kernel, ["bind", nic]).document();
    assert_eq!(bound["items"], plan["items"]);
    assert_eq!(bound["items"][0]["previous_driver"], "e1000e");
    let group = bound["items"][0]["iommu_group"].as_u64().unwrap();
    kernel.shell(&format!("test -c /dev/vfio/{group}")).text();
    let again = gpu(&kernel, ["bind", nic]).document();
    assert_eq!(again["changed"], false);
    let list = gpu(&kernel, ["list"]).document();
    let listed = list["items"].as_array().unwrap().iter().find(|item| item["bdf"] == nic).unwrap();
    assert_eq!(
        (&listed["driver"], &listed["previous_driver"]),
        (&json!("vfio-pci"), &json!("e1000e"))
    );
    // The limit on mappings suffices for a guest with all the memory of the host.
    let needed = kernel.shell("awk '/MemTotal/ {print int(($2 + 3) / 4) + 32764}' /proc/meminfo");
    assert_eq!(state(&kernel).lines().filter(|l| *l == needed.text().trim()).count(), 1);

    let back = gpu(&kernel, ["unbind", nic]).document();
    assert_eq!(back["items"][0]["driver"], "e1000e");
    assert_eq!(back["items"][0]["action"], "unbind");
    assert_eq!(gpu(&kernel, ["unbind", nic]).document()["changed"], false);
    assert_eq!(state(&kernel), before);

    // A card with two functions, of which the command names one.
    let card = kernel.shell("tdx-iommu scan --class 03 --format name").text().trim().to_owned();
    let refused = gpu(&kernel, ["bind", &card]).error(5);
    assert_eq!(refused["code"], "CONSOLE_GPU", "{refused}");
    let bound = gpu(&kernel, ["bind", &card, "--force", "CONSOLE_GPU", "--yes"]).document();
    assert_eq!(bound["items"].as_array().unwrap().len(), 2, "{bound:#}");
    assert!(bound["warnings"][0].as_str().unwrap().contains("CONSOLE_GPU"), "{bound:#}");
    assert!(drivers(&bound).iter().all(|(_, driver)| driver == "vfio-pci"));
    gpu(&kernel, ["unbind", &card]).document();
    assert_eq!(state(&kernel), before);

    // A pipeline binds eight devices at once, and --all returns them.
    let all = eight(&kernel);
    let names: Vec<&str> = all.iter().map(String::as_str).collect();
    let line = format!("tdx-iommu scan {} | tdx-gpu bind - --memory 1G", names.join(" "));
    let bound = kernel.shell(&line).document();
    assert_eq!(drivers(&bound).len(), 8);
    let back = gpu(&kernel, ["unbind", "--all"]).document();
    assert!(drivers(&back).iter().all(|(_, driver)| driver == "nvme"), "{back:#}");
    assert_eq!(state(&kernel), before);
}

#[test]
#[ignore = "needs root"]
fn bind_refuses_devices_that_the_host_needs_and_changes_nothing() {
    let kernel = KERNEL.lock();
    let before = state(&kernel);
    let refused = |words: &[&str], code: &str| {
        let error = gpu(&kernel, words.iter().copied()).error(5);
        assert_eq!(error["code"], code, "{error}");
        assert_eq!(state(&kernel), before, "{words:?}");
    };
    let data = kernel.nvme("rig-data");
    refused(&["bind", &data], "HOST_DISK_MOUNTED");
    refused(&["bind", &data, "--dry-run"], "HOST_DISK_MOUNTED");
    let bridge = kernel.shell("tdx-iommu scan --class 0604 --format name | head -n 1");
    refused(&["bind", bridge.text().trim()], "NONENDPOINT");
    // Two cards are behind a bridge without ACS: one alone is refused, the whole group is accepted.
    let old = kernel.shell("tdx-iommu scan --driver e1000 --format name").text().to_owned();
    let one = old.lines().next().unwrap();
    refused(&["bind", one], "HOST_DRIVER");
    let both = gpu(&kernel, ["bind", one, "--whole-group"]).document();
    assert_eq!(drivers(&both).len(), 2, "{both:#}");
    gpu(&kernel, ["unbind", "--all"]).document();
    assert_eq!(state(&kernel), before);

    // One of eight devices is refused, so no device is bound.
    let mut all = eight(&kernel);
    all[3] = data;
    let names: Vec<&str> = ["bind"].into_iter().chain(all.iter().map(String::as_str)).collect();
    refused(&names, "HOST_DISK_MOUNTED");

    // A physical function is refused while it has virtual functions.
    let physical = kernel.nvme("rig-pf");
    kernel.shell(&format!("echo 1 >/sys/bus/pci/devices/{physical}/sriov_numvfs")).text();
    let error = gpu(&kernel, ["bind", &physical]).error(5);
    assert_eq!(error["code"], "PF_HAS_VFS", "{error}");
    kernel.shell(&format!("echo 0 >/sys/bus/pci/devices/{physical}/sriov_numvfs")).text();

    // A device that a process holds open is refused before the kernel is asked, because the kernel would
    // wait.
    let nvme = kernel.nvme("rig-0");
    gpu(&kernel, ["bind", &nvme]).document();
    let held = kernel.hold(&nvme);
    for verb in [&["unbind", &nvme][..], &["unbind", "--all"], &["bind", &nvme]] {
        let error = gpu(&kernel, verb.iter().copied()).error(5);
        assert_eq!(error["code"], "IN_USE_BY_VM", "{error}");
    }
    drop(held);
    gpu(&kernel, ["unbind", &nvme]).document();
    assert_eq!(state(&kernel), before);

    // Open device nodes of the host's drivers are refused likewise, unless forced.
    let nodes =
        format!("cd /sys/bus/pci/devices/{nvme}/nvme && echo nvme* $(basename nvme*/nvme*n1)");
    let nodes = kernel.shell(&nodes).text().trim().to_owned();
    for node in nodes.split(' ') {
        let hold = format!("sleep 1000 </dev/{node} >/dev/null 2>&1 & echo $!");
        let sleeper = kernel.shell(&hold).text().trim().to_owned();
        let error = gpu(&kernel, ["bind", &nvme]).error(5);
        assert_eq!(error["code"], "OPEN_FDS", "{error}");
        let who = format!("process {sleeper} (sleep) has /dev/{node} open");
        assert!(error["message"].as_str().unwrap().contains(&who), "{error}");
        assert_eq!(state(&kernel), before);
        let check = gpu(&kernel, ["check", &nvme]);
        assert_eq!(check.status, Some(10));
        assert!(check.stdout.contains("OPEN_FDS") && check.stdout.contains(&who), "{check:#?}");
        let forced = gpu(&kernel, ["bind", &nvme, "--force", "OPEN_FDS", "--yes"]).document();
        assert!(forced["warnings"][0].as_str().unwrap().contains(&who), "{forced:#}");
        kernel.shell(&format!("kill {sleeper}")).text();
        gpu(&kernel, ["unbind", &nvme]).document();
        assert_eq!(state(&kernel), before);
    }

    gpu(&kernel, ["bind", "0000:ff:1f.7"]).error(4);
    gpu(&kernel, ["bind", "17:00"]).error(2);
    gpu(&kernel, ["bind", &nvme, "--force", "HOST_DISK_ROOT", "--yes"]).error(2);
    gpu(&kernel, ["bind", &nvme, "--force", "CONSOLE_GPU"]).error(5);
    gpu(&kernel, ["unbind"]).error(2);
    kernel.pipe("tdx-gpu", ["bind", "-"], "").error(3);
    assert_eq!(state(&kernel), before);
}

#[test]
#[ignore = "needs root"]
fn unbind_repairs_what_a_failed_or_killed_bind_leaves() {
    let kernel = KERNEL.lock();
    let before = state(&kernel);
    let all = eight(&kernel);
    let names = all.join(" ");

    // The fourth of eight devices fails: its driver_override cannot be written.
    let attribute = format!("/sys/bus/pci/devices/{}/driver_override", all[3]);
    kernel.shell(&format!("mount --bind {attribute} {attribute}")).text();
    kernel.shell(&format!("mount -o remount,bind,ro {attribute}")).text();
    let error = kernel.shell(&format!("tdx-gpu bind {names}")).error(1);
    assert!(error["message"].as_str().unwrap().contains(&all[3]), "{error}");
    assert_eq!(error["left_behind"], json!([]));
    kernel.shell(&format!("umount {attribute}")).text();
    assert_eq!(state(&kernel), before, "{error}");

    // The command is killed after different delays.
    for after in [20, 60, 120, 200] {
        kernel.shell(&format!("timeout -s KILL 0.{after:03} tdx-gpu bind {names}; true")).text();
        gpu(&kernel, ["unbind", "--all"]).document();
        assert_eq!(state(&kernel), before, "killed after {after} ms");
    }
    // The records of a killed command are reported, and --stale repairs them.
    let stale = format!(
        "cd /run/tdx/bound && sed -i 's/\"committed\": true/\"committed\": false/' {}",
        all[0]
    );
    gpu(&kernel, ["bind", &all[0]]).document();
    gpu(&kernel, ["bind", &all[1]]).document();
    kernel.shell(&stale).text();
    let error = gpu(&kernel, ["bind", &all[0]]).error(5);
    assert_eq!(error["code"], "RESERVED", "{error}");
    let repaired = gpu(&kernel, ["unbind", "--stale"]).document();
    assert_eq!(drivers(&repaired), [(all[0].clone(), json!("nvme"))]);
    gpu(&kernel, ["unbind", "--all"]).document();
    assert_eq!(state(&kernel), before);

    // Without a record, unbind gives the device to the driver that matches.
    kernel.bind(&all[0]);
    assert_eq!(gpu(&kernel, ["unbind", &all[0]]).item()["driver"], "nvme");
    assert_eq!(state(&kernel), before);
    // A record of an absent device, and a record that cannot be read.
    gpu(&kernel, ["bind", &all[0]]).document();
    kernel.shell(&format!("echo 1 >/sys/bus/pci/devices/{}/remove", all[0])).text();
    assert_eq!(gpu(&kernel, ["unbind", "--all"]).item()["action"], "forget");
    kernel.shell("echo 1 >/sys/bus/pci/rescan; udevadm settle 2>/dev/null; sleep 1; true").text();
    gpu(&kernel, ["bind", &all[1]]).document();
    kernel.shell(&format!("echo '{{' >/run/tdx/bound/{}", all[1])).text();
    gpu(&kernel, ["unbind", &all[1]]).error(3);
    kernel.shell(&format!("rm /run/tdx/bound/{}", all[1])).text();
    gpu(&kernel, ["unbind", &all[1]]).document();

    // A driver override that somebody else has set is restored.
    let own = format!("echo nvme >/sys/bus/pci/devices/{}/driver_override", all[2]);
    kernel.shell(&own).text();
    let kept = state(&kernel);
    let bound = gpu(&kernel, ["bind", &all[2]]).document();
    assert!(
        bound["warnings"][0].as_str().unwrap().contains("had the driver override nvme"),
        "{bound:#}"
    );
    gpu(&kernel, ["unbind", &all[2]]).document();
    assert_eq!(state(&kernel), kept);
}

#[test]
#[ignore = "needs root"]
fn bind_on_a_host_without_an_iommu_is_refused() {
    let kernel = Kernel::start_with("intel_iommu=off");
    let nvme = kernel.nvme("rig-0");
    let error = gpu(&kernel, ["bind", &nvme]).error(5);
    assert_eq!(error["code"], "NO_IOMMU", "{error}");
    assert_eq!(gpu(&kernel, ["check", &nvme]).status, Some(10));
}
