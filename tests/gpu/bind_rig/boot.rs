//! Devices that are bound at every boot.

use super::*;

/// Simulates a reboot of a machine with devices on VFIO: the records are gone, and each device has its
/// `driver` again.
fn reboot(kernel: &Kernel, devices: &[(&str, &str)]) {
    let mut line = "set -e; rm -rf /run/tdx; \
        echo 65535 >/sys/module/vfio_iommu_type1/parameters/dma_entry_limit; "
        .to_owned();
    for (bdf, driver) in devices {
        let device = format!("/sys/bus/pci/devices/{bdf}");
        line += &format!("echo {bdf} >{device}/driver/unbind; echo >{device}/driver_override; ");
        if !driver.is_empty() {
            line += &format!("echo {bdf} >/sys/bus/pci/drivers/{driver}/bind; ");
        }
    }
    kernel.shell(&line).text();
}

#[test]
#[ignore = "needs root"]
fn persistent_devices_are_bound_at_every_boot() {
    let kernel = KERNEL.lock();
    let before = state(&kernel);
    let nics = kernel.shell("tdx-iommu scan --driver e1000e --format name").text().to_owned();
    let nics: Vec<&str> = nics.lines().collect();
    let old = kernel.shell("tdx-iommu scan --driver e1000 --format name").text().to_owned();
    let old: Vec<&str> = old.lines().collect();
    let nvme = kernel.nvme("rig-0");
    let persisted = || gpu(&kernel, ["bind", "--persisted"]);
    let files = "cd /etc/tdx/bind.d && ls -A";
    let unit = "/etc/systemd/system/tdx-gpu-bind.service";

    // A dry run writes nothing. Without a record the unit has nothing to do.
    let plan = gpu(&kernel, ["bind", nics[1], "--persist", "--dry-run"]).document();
    assert_eq!(plan["items"][0]["persistent"], true);
    assert_eq!(persisted().document()["changed"], false);
    assert_eq!(state(&kernel), before);

    // A device that is bound first and recorded later, with every warning. A second command changes nothing.
    gpu(&kernel, ["bind", nics[1]]).document();
    let item = gpu(&kernel, ["bind", nics[1], "--persist", "--memory", "1G"]).item();
    assert_eq!((&item["action"], &item["persistent"]), (&json!("persist"), &json!(true)));
    let again = gpu(&kernel, ["bind", nics[1], "--persist", "--memory", "1G"]).document();
    assert_eq!(again["changed"], false, "{again:#}");
    let item = gpu(&kernel, ["bind", nics[1]]).item();
    assert_eq!((&item["action"], &item["persistent"]), (&json!("none"), &json!(true)));
    gpu(&kernel, ["bind", old[0], "--whole-group", "--persist", "--memory", "1G"]).document();
    gpu(&kernel, ["bind", &nvme, "--persist", "--memory", "2G"]).document();
    let names = kernel.shell(files).text().to_owned();
    let mut wanted = [nics[1], old[0], old[1], &nvme];
    wanted.sort_unstable();
    assert_eq!(names, wanted.iter().map(|bdf| format!("{bdf}.json\n")).collect::<String>());
    kernel.shell("[ \"$(stat -c %a /etc/tdx/bind.d/*.json | sort -u)\" = 600 ]").text();
    // The unit is valid and enabled, according to systemd where it is installed.
    let verify = format!(
        "command -v systemd-analyze >/dev/null || exit 0; \
         systemd-analyze verify {unit} 2>&1 && systemctl is-enabled tdx-gpu-bind.service"
    );
    let said = kernel.shell(&verify);
    assert!(!said.text().contains("tdx-gpu-bind"), "{said:#?}");

    // After a reboot all devices are bound as before; one device has no driver yet.
    let bound = state(&kernel);
    reboot(
        &kernel,
        &[(nics[1], ""), (old[0], "e1000"), (old[1], "e1000"), (nvme.as_str(), "nvme")],
    );
    let items = persisted().document();
    assert_eq!(drivers(&items).len(), 4, "{items:#}");
    assert!(drivers(&items).iter().all(|(_, driver)| driver == "vfio-pci"));
    assert_eq!(state(&kernel), bound);
    assert_eq!(persisted().document()["changed"], false);
    let list = gpu(&kernel, ["list"]).document();
    let of =
        |bdf: &str| list["items"].as_array().unwrap().iter().find(|i| i["bdf"] == bdf).cloned();
    assert_eq!(of(nics[1]).unwrap()["persistent"], true);
    assert_eq!(of(nics[1]).unwrap()["previous_driver"], "e1000e");

    // A device has another address: a card was added, and the buses have other numbers.
    reboot(
        &kernel,
        &[(nics[1], "e1000e"), (old[0], "e1000"), (old[1], "e1000"), (nvme.as_str(), "nvme")],
    );
    let edit = |bdf: &str, from: &str, to: &str| {
        kernel.shell(&format!("sed -i 's/{from}/{to}/' /etc/tdx/bind.d/{bdf}.json")).text();
    };
    edit(nics[1], r#""bdf": ".*""#, r#""bdf": "0000:77:00.0""#);
    edit(nics[1], r#""path": ".*""#, r#""path": "0000_00_01.0-00_00.0""#);
    edit(&nvme, r#""bdf": ".*""#, r#""bdf": "0000:78:00.0""#);
    // Another card in a group of two, and a record that cannot be read: both are reported, and the other
    // devices are bound.
    edit(old[1], r#""subsystem_device": .*,"#, r#""subsystem_device": 1,"#);
    kernel.shell("echo '{' >/etc/tdx/bind.d/x.json").text();
    let error = persisted().error(5);
    assert_eq!(error["code"], "IDENTITY_CHANGED", "{error}");
    assert!(error["message"].as_str().unwrap().contains(old[1]), "{error}");
    let causes = error["causes"].to_string();
    assert!(causes.contains("recorded: 8086:") && causes.contains("x.json is damaged"), "{causes}");
    assert!(causes.contains(&format!("{} cannot be given", old[0])), "{causes}");
    assert!(causes.contains("HOST_DRIVER"), "{causes}");
    assert_eq!(error["applied"], json!([format!("bound {}", nics[1]), format!("bound {nvme}")]));
    // Another card of the same model.
    edit(nics[1], r#""serial": ".*""#, r#""serial": "0000000000000001""#);
    edit(nics[1], "0000:77:00.0", nics[1]);
    edit(nics[1], "0000_00_01.0-00_00.0", "0000_00_03.0-00_00.0");
    kernel.shell("rm /etc/tdx/bind.d/x.json").text();
    let error = persisted().error(5);
    assert!(error["causes"].to_string().contains("0000000000000001"), "{error}");
    // No card at the recorded place.
    edit(nics[1], "0000_00_03.0-00_00.0", "0000_00_01.0-00_00.0");
    edit(old[1], r#""path": ".*""#, r#""path": "0000_00_01.1""#);
    persisted().error(4);

    // A released device is removed from the records, with the other functions of its slot. The unit is
    // removed with the last record.
    let plan = gpu(&kernel, ["unbind", &nvme, "--dry-run"]).item();
    assert_eq!(plan["was_persistent"], true);
    let item = gpu(&kernel, ["unbind", &nvme]).item();
    assert_eq!((&item["was_persistent"], &item["action"]), (&json!(true), &json!("unbind")));
    assert_eq!(kernel.shell(files).text().lines().count(), 3);
    let item = gpu(&kernel, ["unbind", old[0]]).item();
    assert_eq!((&item["was_persistent"], &item["action"]), (&json!(true), &json!("forget")));
    kernel.shell(&format!("test -e {unit}")).text();
    // A new card that replaces another one is recorded in its place.
    gpu(&kernel, ["bind", nics[1], "--persist"]).document();
    assert_eq!(kernel.shell(files).text(), format!("{}.json\n{}.json\n", nics[1], old[1]));
    gpu(&kernel, ["unbind", "--all"]).document();
    assert_eq!(state(&kernel), before);

    gpu(&kernel, ["bind", "--persisted", nics[1]]).error(2);
    gpu(&kernel, ["bind", "--persisted", "--persist"]).error(2);
    // The unit forces only the codes in the record: without its code the card is refused.
    let card = kernel.shell("tdx-iommu scan --class 03 --format name").text().trim().to_owned();
    gpu(&kernel, ["bind", &card, "--persist", "--force", "CONSOLE_GPU", "--yes"]).document();
    kernel.shell("sed -i '/CONSOLE_GPU/d' /etc/tdx/bind.d/*").text();
    gpu(&kernel, ["unbind", "--all", "--dry-run"]).document();
    let audio = card.replace(".0", ".1");
    reboot(&kernel, &[(&card, "bochs-drm"), (&audio, "snd_hda_intel")]);
    assert_eq!(persisted().error(5)["code"], "CONSOLE_GPU");
    gpu(&kernel, ["unbind", "--all"]).document();
    assert_eq!(state(&kernel), before);
}
