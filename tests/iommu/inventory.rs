//! `tdx-iommu` on machines made of files: documents, filters, checks, bad input.

#![expect(clippy::disallowed_methods, reason = "tests start programs as users do")]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use serde_json::{Value, json};

use crate::support::hosts;
use crate::support::tools;
use crate::support::tree::{Spec, Tree};

/// Compares a document with the snapshot of this name. `INSTA_UPDATE=always` writes the snapshot again.
#[track_caller]
fn golden(name: &str, document: &Value) {
    let mut settings = insta::Settings::clone_current();
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.bind(|| {
        insta::assert_snapshot!(name, serde_json::to_string_pretty(document).unwrap());
    });
}

#[test]
fn scan_and_groups_of_typical_hosts_match_their_snapshots() {
    for (name, host) in [
        ("server", hosts::server()),
        ("desktop", hosts::desktop()),
        ("laptop", hosts::laptop()),
        ("empty", hosts::empty()),
    ] {
        golden(&format!("iommu_scan_{name}"), &host.iommu("scan --json").document());
        golden(&format!("iommu_groups_{name}"), &host.iommu("groups --json").document());
        let scan = host.iommu("scan --json").document();
        assert_eq!(scan, host.iommu("scan --json").document(), "a second look is the same");
    }
}

#[test]
fn table_and_name_formats_match_their_snapshots() {
    let host = hosts::laptop();
    golden("iommu_scan_laptop_table", &json!(host.iommu("scan --format table").stdout));
    let host = hosts::desktop();
    golden("iommu_groups_desktop_table", &json!(host.iommu("groups --format table").stdout));
    assert_eq!(host.iommu("groups --format name").text(), "0\n1\n2\n3\n");
    assert_eq!(host.iommu("scan 06:00.0 --format name").text(), "0000:06:00.0\n");
}

/// The addresses in a document.
fn bdfs(document: &Value) -> Vec<&str> {
    document["items"].as_array().unwrap().iter().map(|i| i["bdf"].as_str().unwrap()).collect()
}

#[test]
fn scan_returns_only_devices_that_match_the_filters() {
    let host = hosts::server();
    let count = |line: &str| bdfs(&host.iommu(line).document()).len();
    for (line, wanted) in [
        ("scan --vendor 10de", 12),
        ("scan --vendor 0x10DE --class 03", 8),
        ("scan --class 0302", 8),
        ("scan --class 03", 9),
        ("scan --class 0302 --class 0680", 12),
        ("scan --id 10de:22a3", 4),
        ("scan --device 2330 --device 22a3", 12),
        ("scan --driver nvidia", 7),
        ("scan --driver none --class 02", 1),
        ("scan --vendor 10de --free", 1),
        ("scan --vendor 10de --in-use", 11),
        ("scan --vendor 1234", 0),
        ("scan --group 5", 1),
        ("scan --group 9999", 0),
        ("scan 13:00.0 0000:a1:00.0 0000:13:00.0", 2),
        ("scan 13:00.0 --vendor 8086", 0),
    ] {
        assert_eq!(count(line), wanted, "{line}");
    }
    let twice = host.iommu("scan 13:00.0 0000:13:00.0").document();
    assert_eq!(twice["warnings"], json!(["0000:13:00.0 was named more than once"]));
}

/// The codes of the blockers of one device, from check.
#[track_caller]
fn blockers(host: &Tree, line: &str, bdf: &str) -> Vec<String> {
    let run = host.iommu(&format!("check --json {line}"));
    let document: Value = serde_json::from_str(&run.stdout).unwrap();
    let items = document["items"].as_array().unwrap();
    let viable = items.iter().all(|item| item["viable"] == true);
    assert_eq!(run.status, Some(if viable { 0 } else { 10 }), "{run:#?}");
    let item = items.iter().find(|item| item["bdf"] == bdf).unwrap();
    serde_json::from_value(item["blockers"].clone()).unwrap()
}

#[test]
fn check_judges_the_requested_devices_together() {
    let host = hosts::desktop();
    // All functions of a slot belong together, whichever of them is named.
    let document: Value = serde_json::from_str(&host.iommu("check 01:00.1").stdout).unwrap();
    let wanted = ["0000:01:00.0", "0000:01:00.1", "0000:01:00.2", "0000:01:00.3"];
    assert_eq!(bdfs(&document), wanted);
    let named: Vec<&Value> =
        document["items"].as_array().unwrap().iter().map(|item| &item["named"]).collect();
    assert_eq!(named, [false, true, false, false]);
    golden("iommu_check_desktop_gpu", &document);

    // If one device is requested, the other devices of its group block it. If all are requested, only devices
    // that the host uses block.
    let alone = "07:00.0";
    assert_eq!(blockers(&host, alone, "0000:07:00.0"), ["HOST_DRIVER"]);
    let all = "07:00.0 06:00.0 05:00.0 04:00.0";
    assert_eq!(blockers(&host, all, "0000:07:00.0"), [""; 0]);
    assert_eq!(blockers(&host, all, "0000:06:00.0"), ["SENSITIVE_CLASS"]);
    assert_eq!(
        blockers(&host, all, "0000:05:00.0"),
        ["HOST_DISK_MOUNTED", "HOST_DISK_ROOT", "SENSITIVE_CLASS"]
    );
    assert_eq!(blockers(&host, all, "0000:04:00.0"), ["HOST_NET_DEFAULT_ROUTE", "SENSITIVE_CLASS"]);
    assert_eq!(
        blockers(&host, "02:00.0", "0000:02:00.0"),
        ["HOST_DRIVER", "NONENDPOINT", "SENSITIVE_CLASS"]
    );

    let server = hosts::server();
    assert_eq!(server.iommu("check 13:00.0 23:00.0 14:00.0").status, Some(0));
    assert_eq!(
        blockers(&server, "a1:00.0", "0000:a1:00.0"),
        ["HOST_DISK_MOUNTED", "HOST_DISK_ROOT", "SENSITIVE_CLASS"]
    );
    // Only one half of the mirror has the EFI partition; both halves have the root.
    assert!(blockers(&server, "b1:00.0", "0000:b1:00.0").contains(&"HOST_DISK_ROOT".to_owned()));
    assert_eq!(blockers(&server, "c1:00.0 c1:00.1", "0000:c1:00.0"), ["PF_HAS_VFS"]);
    // A virtual function can be requested alone.
    assert_eq!(bdfs(&server.iommu("check c1:00.3").document()), ["0000:c1:00.3"]);
    assert_eq!(blockers(&hosts::laptop(), "01:00.0", "0000:01:00.0"), ["NO_IOMMU"]);
}

#[test]
fn check_refuses_groups_without_isolation_and_devices_without_group() {
    let mut host = Tree::new();
    let nic = Spec { ids: "8086:1521", class: "020000", driver: "igb", group: Some(1), more: &[] };
    host.device("0000:00", "0000:00:03.0", nic);
    host.device("0000:00", "0000:00:04.0", Spec { group: None, ..nic });
    host.device("0000:00", "0000:00:05.0", Spec { group: Some(2), ..nic });
    host.file("sys/kernel/iommu_groups/1/name", "vfio-noiommu\n");
    host.file("sys/kernel/iommu_groups/2/type", "identity\n");
    let mdev = format!("{}/83b8f4f2-509f-382f-3c1e-e6bfe0fa1001", host.folder("0000:00:05.0"));
    host.file(&format!("{mdev}/uevent"), "");
    host.link("sys/bus/mdev/devices/83b8f4f2-509f-382f-3c1e-e6bfe0fa1001", &mdev);
    assert_eq!(blockers(&host, "00:03.0", "0000:00:03.0"), ["NOIOMMU_MODE"]);
    assert_eq!(blockers(&host, "00:04.0", "0000:00:04.0"), ["NO_GROUP"]);
    // An identity domain blocks nothing: VFIO maps what it needs.
    assert_eq!(blockers(&host, "00:05.0", "0000:00:05.0"), ["MDEV_CHILDREN"]);
    assert_eq!(host.iommu("groups 2").item()["type"], "identity");
}

#[test]
fn check_names_processes_that_have_a_device_node_open_or_mapped() {
    let mut host = Tree::new();
    let gpu =
        Spec { ids: "10de:2330", class: "030200", driver: "nvidia", group: Some(1), more: &[] };
    host.device("0000:00", "0000:00:03.0", gpu);
    host.device("0000:00", "0000:00:04.0", Spec { group: Some(2), ..gpu });
    host.device("0000:00", "0000:00:05.0", Spec { group: Some(3), ..gpu });
    // These device nodes are /dev/null, /dev/zero and /dev/full, which every process has open.
    for (bdf, number) in [("0000:00:03.0", "1:3"), ("0000:00:04.0", "1:5"), ("0000:00:05.0", "1:7")]
    {
        host.file(&format!("{}/drm/card0/dev", host.folder(bdf)), format!("{number}\n"));
    }
    host.file("proc/77/comm", "jupyter\n");
    host.file("proc/77/maps", "7f0000000000-7f0000001000 r--s 00000000 00:05 9      /dev/zero\n");
    std::fs::create_dir_all(host.path("proc/77/fd")).unwrap();
    std::os::unix::fs::symlink("/dev/null", host.path("proc/77/fd/3")).unwrap();
    std::os::unix::fs::symlink("/", host.path("proc/77/root")).unwrap();
    for (bdf, node) in [("0000:00:03.0", "/dev/null"), ("0000:00:04.0", "/dev/zero")] {
        assert_eq!(blockers(&host, bdf, bdf), ["OPEN_FDS"]);
        let run = host.iommu(&format!("check --json {bdf}")).stdout;
        assert!(run.contains(&format!("process 77 (jupyter) has {node} open")), "{run}");
    }
    assert_eq!(blockers(&host, "00:05.0", "0000:00:05.0"), [""; 0]);
    assert_eq!(host.iommu("scan 00:03.0").item()["blockers"], json!([]), "for check alone");
}

#[test]
fn wrong_addresses_exit_2_and_absent_devices_exit_4() {
    let host = hosts::laptop();
    for text in [
        "17:00",
        "17.0",
        "0:17:00.0",
        "0000:17:20.0",
        "0000:17:00.8",
        "+7:00.0",
        "0000:17:00.00",
        "000000000:17:00.0",
        "0000:117:00.0",
        "0000:1g:00.0",
        "0000-17:00.0",
        "0000:17:00.0.0",
        "１７:00.0",
        ":",
        ".",
        "0x0000:17:00.0",
        "nvidia",
        "0000:17:00.a",
        "../../etc:00.0",
    ] {
        for verb in ["scan", "check"] {
            let error = host.iommu(&format!("{verb} {text}")).error(2);
            assert!(error["message"].as_str().unwrap().contains("not a PCI address"), "{error}");
        }
        let input = json!([{ "bdf": text }]).to_string();
        host.iommu_with("check -", &input).error(3);
    }
    for line in ["scan 99:00.0", "check 99:00.0", "check 01:00.0 99:00.0", "groups 7"] {
        host.iommu(line).error(4);
    }
    for line in [
        "",
        "check",
        "groups x",
        "groups -1",
        "scan --class",
        "scan --class vga",
        "scan --in-use --free",
        "scan --vendor 12345",
        "scan --id 10de",
        "check - 01:00.0",
        "check - -",
        "scan - -",
        "bind",
    ] {
        host.iommu(line).error(2);
    }
    tools::tool("tdx-iommu", ["scan", "--sysroot", "/absent"]).error(4);
}

#[test]
fn documents_of_other_kinds_exit_3() {
    let host = hosts::laptop();
    let document = |kind: &str, version: &str, items: Value| {
        json!({"schema_version": version, "kind": kind, "items": items}).to_string()
    };
    for (input, says) in [
        (String::new(), "standard input is empty"),
        ("bdf".to_owned(), "not JSON"),
        ("{\"bdf\":\"01:00.0\"".to_owned(), "not JSON"),
        (document("tdx.pool.volumes", "1.0", json!([])), "tdx.pool.volumes"),
        (document("tdx.td.domains", "1.0", json!([{"bdf": "01:00.0"}])), "tdx.td.domains"),
        (document("tdx.iommu.devices", "2.0", json!([])), "2.0"),
        (json!([{"name": "web1"}]).to_string(), "item 1"),
        (json!([{"bdf": 17}]).to_string(), "item 1"),
        (json!([{"bdf": null}]).to_string(), "item 1"),
        (json!({"iommu_group": 3}).to_string(), "item 1"),
        ("\"01:00.0\"".to_owned(), "item 1"),
        // The document of groups contains devices, but is not a list of devices.
        (document("tdx.iommu.groups", "1.0", json!([{"iommu_group": 3}])), "item 1"),
    ] {
        for verb in ["check -", "scan -"] {
            let error = host.iommu_with(verb, &input).error(3);
            assert!(error["message"].as_str().unwrap().contains(says), "{input}: {error}");
        }
    }
    let nothing = host.iommu_with("check -", "[]").document();
    assert_eq!(nothing["items"], json!([]));
    // The document names one device twice, in two forms.
    let twice = "{\"bdf\":\"01:00.0\"} {\"bdf\":\"0000:01:00.0\"}";
    let document = host.iommu_with("scan -", twice).document();
    assert_eq!(bdfs(&document), ["0000:01:00.0"]);
    assert_eq!(document["warnings"].as_array().unwrap().len(), 1);
}

#[test]
fn check_reads_the_document_of_scan() {
    let host = hosts::server();
    let scan = host.iommu("scan --vendor 10de --class 03 --free").stdout;
    assert_eq!(bdfs(&host.iommu_with("check -", &scan).document()), ["0000:83:00.0"]);
    let group: Value = serde_json::from_str(&scan).unwrap();
    let item = group["items"][0].to_string();
    assert_eq!(host.iommu_with("check -", &item).document()["items"].as_array().unwrap().len(), 1);
}

#[test]
fn scan_shows_unreadable_attributes_as_unknown_with_a_warning() {
    let mut host = Tree::new();
    let nic = Spec { ids: "8086:1521", class: "020000", driver: "", group: Some(1), more: &[] };
    for device in 1..9 {
        host.device("0000:00", &format!("0000:00:{device:02x}.0"), nic);
    }
    let folder = |device: u32| host.folder(&format!("0000:00:{device:02x}.0"));
    host.file(&format!("{}/vendor", folder(1)), "no number\n");
    host.file(&format!("{}/class", folder(2)), [0xff, 0xfe]);
    host.file(&format!("{}/numa_node", folder(3)), "many\n");
    host.file(&format!("{}/device", folder(4)), "0x123456789\n");
    let remove = |path: String| std::fs::remove_file(host.path(&path)).unwrap();
    remove(format!("{}/vendor", folder(5)));
    // A directory in place of a file, and a loop of links.
    remove(format!("{}/revision", folder(6)));
    std::fs::create_dir(host.path(&format!("{}/revision", folder(6)))).unwrap();
    remove(format!("{}/iommu_group", folder(7)));
    host.link(&format!("{}/iommu_group", folder(7)), "sys/kernel/iommu_groups/none");
    // Only the entry of the device in the bus exists.
    std::fs::remove_dir_all(host.path(&folder(8))).unwrap();
    host.file("sys/bus/pci/devices/README", "");
    let document = host.iommu("scan").document();
    assert_eq!(document["items"].as_array().unwrap().len(), 8);
    golden("iommu_scan_unreadable", &document);
}

#[test]
fn devices_that_vanish_during_the_scan_are_no_failure() {
    let mut host = Tree::new();
    let nic = Spec { ids: "8086:1521", class: "020000", driver: "", group: None, more: &[] };
    let all: Vec<String> =
        (0..512).map(|n| format!("0000:{:02x}:{:02x}.{}", n >> 8, n >> 3 & 31, n & 7)).collect();
    for bdf in &all {
        host.device(&format!("0000:{}", &bdf[5..7]), bdf, nic);
    }
    let links: Vec<_> =
        all.iter().map(|bdf| host.path(&format!("sys/bus/pci/devices/{bdf}"))).collect();
    let folders: Vec<_> = all.iter().map(|bdf| host.path(&host.folder(bdf))).collect();
    std::thread::scope(|scope| {
        let remover = scope.spawn(|| {
            for (link, folder) in links.iter().zip(&folders).rev() {
                // As in the kernel, the device disappears from the bus first.
                std::fs::remove_file(link).unwrap();
                std::fs::remove_dir_all(folder).unwrap();
            }
        });
        let mut left = 512;
        while left > 0 {
            let document = host.iommu("scan").document();
            left = document["items"].as_array().unwrap().len();
            assert_eq!(document["warnings"], json!([]), "with {left} left");
            for item in document["items"].as_array().unwrap() {
                assert_eq!(item["vendor_id"], "8086", "half of a device: {item}");
            }
        }
        remover.join().unwrap();
    });
}

#[test]
fn ten_thousand_devices_in_one_group_are_scanned() {
    let mut host = Tree::new();
    for n in 0..10_000_u32 {
        let (domain, bus) = (n >> 16, n >> 8 & 255);
        let bdf = format!("{domain:04x}:{bus:02x}:{:02x}.{}", n >> 3 & 31, n & 7);
        let driver = if n % 2 == 0 { "vfio-pci" } else { "igb" };
        let nic = Spec { ids: "8086:1521", class: "020000", driver, group: Some(1), more: &[] };
        host.device(&format!("{domain:04x}:{bus:02x}"), &bdf, nic);
    }
    // The schema is not checked: that takes a minute at this size.
    let parsed = |line: &str| -> Value { serde_json::from_str(host.iommu(line).text()).unwrap() };
    let document = parsed("scan");
    let items = document["items"].as_array().unwrap();
    assert_eq!(items.len(), 10_000);
    assert!(items.iter().all(|item| item["blockers"] == json!(["HOST_DRIVER"])));
    assert_eq!(parsed("groups")["items"][0]["devices"].as_array().unwrap().len(), 10_000);
    let all: Vec<Value> = items.iter().map(|item| json!({ "bdf": item["bdf"] })).collect();
    let check = host.iommu_with("check -", &Value::from(all).to_string());
    assert_eq!(check.status, Some(0), "{}", check.stderr);
}

#[test]
fn check_refuses_every_controller_of_a_mounted_disk() {
    let mut host = Tree::new();
    let nvme = Spec { ids: "144d:a824", class: "010802", driver: "nvme", group: None, more: &[] };
    let subsystem = "/sys/devices/virtual/nvme-subsystem/nvme-subsys0";
    for number in 1..4 {
        let bdf = format!("0000:00:0{number}.0");
        host.device("0000:00", &bdf, Spec { group: Some(number), ..nvme });
        if number < 3 {
            let controller = format!("{}/nvme/nvme{number}", host.folder(&bdf));
            host.file(&format!("{controller}/state"), "live\n");
            host.link(&format!("{subsystem}/nvme{number}"), &controller);
        }
    }
    host.file(&format!("{subsystem}/nvme0n1/dev"), "259:0\n");
    host.link("sys/class/block/nvme0n1", &format!("{subsystem}/nvme0n1"));
    host.link("sys/dev/block/259:0", &format!("{subsystem}/nvme0n1"));
    host.file("proc/self/mountinfo", "22 1 259:0 / /srv rw - xfs /dev/nvme0n1 rw\n");
    let scan = host.iommu("scan").document();
    let items = scan["items"].as_array().unwrap();
    let codes: Vec<&Value> = items.iter().map(|item| &item["blockers"]).collect();
    let used = json!(["HOST_DISK_MOUNTED", "SENSITIVE_CLASS"]);
    assert_eq!(codes, [&used, &used, &json!([])]);
}

#[test]
fn tdx_iommu_does_not_link_libvirt() {
    let mut readelf = std::process::Command::new("readelf");
    readelf.arg("-d").arg(tools::bin("tdx-iommu"));
    let run = tools::Run::of(readelf, b"");
    assert!(run.text().contains("NEEDED") && !run.text().contains("libvirt"), "{}", run.stdout);
}
