//! Items that describe an object whose name now belongs to another object: the verbs change nothing. Also the
//! host name, which every document and item contains.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use serde_json::{Value, json};

use crate::support::rig::{Rig, guest_image};
use crate::support::td::{define, foreign, td, volumes};
use crate::support::tools::{Run, tool_with_input};
use crate::support::tree::{Spec, Tree};

/// Expects that the run changed nothing because the item describes another object. Returns the message.
#[track_caller]
fn refused(run: &Run) -> String {
    let error = run.error(5);
    assert_eq!(error["code"], "IDENTITY_CHANGED", "{error}");
    assert!(error["hint"].is_string(), "{error}");
    error["message"].as_str().unwrap().to_owned()
}

/// The only item of a document, with other values for some keys.
fn item_with(document: &Value, keys: Value) -> String {
    let mut item = document["items"][0].clone();
    for (key, value) in keys.as_object().unwrap() {
        item[key] = value.clone();
    }
    item.to_string()
}

/// Domains with their state and UUID.
fn domains(rig: &Rig) -> String {
    rig.virsh(["list", "--all", "--name", "--uuid"]) + &rig.virsh(["list", "--all"])
}

#[test]
#[ignore = "needs root"]
fn an_item_of_a_domain_that_was_defined_again_changes_nothing() {
    let rig = Rig::start();
    define(&rig, &foreign("web1", ""));
    let old = td(&rig, "list").document();
    let old_uuid = old["items"][0]["uuid"].as_str().unwrap().to_owned();
    rig.virsh(["undefine", "web1"]);
    define(&rig, &foreign("web1", ""));
    let new_uuid = rig.virsh(["domuuid", "web1"]);
    let before = domains(&rig);
    let list = old.to_string();
    let item = old["items"][0].to_string();
    // The plan reads a tree of files, so that the test cannot change the settings of this host.
    rig.shell("mkdir -p tree/sys tree/proc").text();
    let tune = "host tune --scenario computation --domain - --sysroot tree -c qemu:///system -n";
    for verb in ["start -", "stop - --force", "delete - --foreign --yes", "show -", tune] {
        for input in [&list, &item] {
            let message = refused(&rig.pipe("tdx-td", verb.split(' '), input));
            for part in ["domain 'web1'", &old_uuid, &new_uuid] {
                assert!(message.contains(part), "{verb}: {message}");
            }
            assert_eq!(domains(&rig), before, "{verb}");
        }
    }
    let resolution = json!([{"vm": "web1", "uuid": old_uuid, "devices": []}]).to_string();
    refused(&rig.pipe("tdx-td", ["hostdevs", "-", "--yes"], &resolution));
    assert_eq!(domains(&rig), before);
    // A dry run is refused like the command.
    refused(&rig.pipe("tdx-td", ["delete", "-", "--foreign", "-n"], &list));

    // A key that the item lacks is not compared. The case of a UUID does not matter.
    let upper = new_uuid.to_uppercase();
    for keys in
        [json!({"uuid": null}), json!({"uuid": upper}), json!({"uuid": upper, "host": null})]
    {
        let item = item_with(&old, keys.clone());
        assert_eq!(rig.pipe("tdx-td", ["stop", "-"], &item).item()["action"], "none", "{keys}");
    }
    rig.pipe("tdx-td", ["start", "-", "-n"], r#"{"name":"web1"}"#).document();
    // Two items have one name, but only one of them describes this domain.
    let both = item + &item_with(&old, json!({"uuid": new_uuid}));
    refused(&rig.pipe("tdx-td", ["start", "-"], &both));
    assert_eq!(domains(&rig), before);

    // The other items are processed. The exit status is that of the refused item.
    define(&rig, &foreign("web2", ""));
    let web2 = td(&rig, "show web2").document();
    let both = item_with(&old, json!({})) + &web2["items"][0].to_string();
    let error = rig.pipe("tdx-td", ["delete", "-", "--foreign", "--yes"], &both).error(5);
    assert_eq!(error["applied"], json!(["deleted domain 'web2'"]), "{error}");
    assert_eq!(domains(&rig), before);

    // No domain has this name: the rules of the verb for absent domains apply, whatever the UUID.
    let gone = r#"{"name":"gone","uuid":"9d1f4bd8-8a4c-4f25-9f4a-3a5f0e6b2a11"}"#;
    let none = rig.pipe("tdx-td", ["delete", "-", "--yes"], gone).item();
    assert_eq!(none["action"], "none");
    rig.pipe("tdx-td", ["start", "-"], gone).error(4);
    // The next verb reads the document that a verb prints.
    let started = rig.shell("tdx-td start web1 | jq '.items[]' | tdx-td stop - --force").item();
    assert_eq!((&started["uuid"], &started["action"]), (&json!(new_uuid), &json!("stop")));
}

#[test]
#[ignore = "needs root"]
fn a_list_of_one_host_changes_nothing_on_another() {
    let (one, other) = (Rig::start(), Rig::start());
    one.shell("hostname node1.example.org").text();
    other.shell("hostname node2").text();
    let uuid = "<uuid>9d1f4bd8-8a4c-4f25-9f4a-3a5f0e6b2a11</uuid><memory";
    // The UUID is equal on both hosts, as after a copy of the definition.
    for rig in [&one, &other] {
        define(rig, &foreign("web1", "").replacen("<memory", uuid, 1));
    }
    let list = td(&one, "list").document();
    assert_eq!(list["host"], "node1.example.org");
    assert_eq!(list["items"][0]["host"], "node1.example.org");
    let before = domains(&other);
    for verb in ["start -", "stop - --force", "delete - --foreign --yes", "show -"] {
        for input in [list.to_string(), list["items"][0].to_string()] {
            let message = refused(&other.pipe("tdx-td", verb.split(' '), &input));
            for part in ["domain 'web1'", "node1.example.org", "node2"] {
                assert!(message.contains(part), "{verb}: {message}");
            }
            assert_eq!(domains(&other), before, "{verb}");
        }
    }
    // An item of an absent domain does not make the list one of this host.
    let absent = item_with(&list, json!({"name": "absent"}));
    refused(&other.pipe("tdx-td", ["delete", "-", "--yes"], &absent));

    for (host, same) in [
        (json!("node2"), true),
        (json!("NODE2"), true),
        (json!("node2.example.org"), true),
        (json!("Node2.Example.org."), true),
        (json!(null), true),
        (json!("node"), false),
        (json!("node20"), false),
        (json!("example.org"), false),
        (json!(""), false),
    ] {
        let run = other.pipe("tdx-td", ["stop", "-"], item_with(&list, json!({"host": host})));
        if same {
            run.document();
        } else {
            refused(&run);
        }
    }
    // A short and a full host name are compared by the first label; two full names as a whole.
    for (host, same) in [("node1", true), ("node1.example.com", false), ("node1.example.org", true)]
    {
        let run = one.pipe("tdx-td", ["stop", "-"], item_with(&list, json!({"host": host})));
        assert_eq!(run.status, Some(if same { 0 } else { 5 }), "{host}: {run:#?}");
    }

    // Documents of volumes are checked like those of domains.
    for rig in [&one, &other] {
        rig.tool("tdx-pool", ["import".as_ref(), guest_image(false).as_os_str()]).document();
    }
    let list = one.tool("tdx-pool", ["volumes"]).document();
    let item = item_with(&list, json!({"pool_uuid": null}));
    for input in [&list.to_string(), &item] {
        refused(&other.pipe("tdx-pool", ["delete", "-", "--yes"], input));
        refused(&other.pipe("tdx-pool", ["import", "-", "--name", "copy.qcow2"], input));
        refused(&other.pipe("tdx-td", ["overlay", "--base", "-"], input));
        refused(&other.pipe("tdx-td", "new --base - --security none".split(' '), input));
    }
    assert_eq!(volumes(&other), ["guest.qcow2"]);
}

#[test]
#[ignore = "needs root"]
fn a_document_of_a_remote_connection_has_the_host_name_of_libvirt() {
    let rig = Rig::start();
    define(&rig, &foreign("web1", ""));
    rig.tool("tdx-pool", ["ensure"]).document();
    std::fs::write(rig.scratch().join("hosts.yaml"), "alias: {uri: qemu+tcp://127.0.0.1/system}\n")
        .unwrap();
    // The machine of the tool has another host name than the machine of libvirt.
    let away = |line: &str| {
        let line =
            format!("unshare --uts sh -c 'hostname desk; export TDX_HOSTS=hosts.yaml; {line}'");
        rig.shell(&line)
    };
    for (line, host) in [
        ("tdx-td -c qemu+tcp://127.0.0.1/system list", json!("rig")),
        ("tdx-td --host alias list", json!("rig")),
        ("tdx-pool --host alias info", json!("rig")),
        ("tdx-td list", json!("desk")),
        ("tdx-iommu groups", json!("desk")),
        ("tdx-disk list --all", json!("desk")),
        ("tdx-td scenario show computation", json!(null)),
        ("tdx-td --host alias scenario list", json!(null)),
        ("tdx-td firmware", json!(null)),
    ] {
        let document = away(line);
        assert_eq!(document.status, Some(0), "{document:#?}");
        let document: Value = serde_json::from_str(&document.stdout).unwrap();
        assert_eq!(document["host"], host, "{line}");
        assert_eq!(document["schema_version"], "1.1");
        for item in document["items"].as_array().unwrap() {
            assert_eq!(item["host"], host, "{line}");
        }
    }
    // A list names the host of libvirt, whichever connection produced the list.
    let remote = "tdx-td --host alias";
    away(&format!("{remote} list | {remote} stop -")).document();
    away(&format!("tdx-td -c qemu+unix:///system list | {remote} stop -")).error(5);
    rig.shell("tdx-td -c qemu+tcp://127.0.0.1/system list | tdx-td stop -").document();
}

#[test]
#[ignore = "needs root"]
fn an_item_of_a_pool_that_was_defined_again_changes_nothing() {
    let rig = Rig::start();
    let pool = |line: &str| rig.tool("tdx-pool", line.split(' '));
    let path = rig.scratch().join("p").display().to_string();
    pool(&format!("ensure --pool p --path {path}")).document();
    let image = guest_image(false);
    let imported = pool(&format!("import {} --pool p --name a.qcow2", image.display())).document();
    let old = pool("volumes --pool p").document();
    assert!(old["items"][0]["pool_uuid"].is_string(), "{old:#}");
    assert_eq!(imported["items"][0]["pool_uuid"], old["items"][0]["pool_uuid"]);
    rig.virsh(["pool-destroy", "p"]);
    rig.virsh(["pool-undefine", "p"]);
    pool(&format!("ensure --pool p --path {path}")).document();
    let new = pool("volumes --pool p").document();
    assert_ne!(new["items"][0]["pool_uuid"], old["items"][0]["pool_uuid"]);

    let before = new["items"].clone();
    for input in [&old, &imported] {
        let input = input.to_string();
        let message = refused(&rig.pipe("tdx-pool", ["delete", "-", "--yes"], &input));
        assert!(message.contains("volume 'a.qcow2'") && message.contains("pool_uuid"), "{message}");
        refused(&rig.pipe("tdx-pool", ["import", "-", "--name", "b.qcow2"], &input));
        refused(&rig.pipe("tdx-td", ["overlay", "--base", "-"], &input));
        refused(&rig.pipe("tdx-td", "new --base - --security none".split(' '), &input));
    }
    assert_eq!(pool("volumes --pool p").document()["items"], before);
    // The other volumes of the document are deleted.
    pool(&format!("import {} --pool p --name c.qcow2", image.display())).document();
    let new = pool("volumes --pool p").document();
    let item = |name: &str, document: &Value| {
        let items = document["items"].as_array().unwrap();
        items.iter().find(|item| item["name"] == name).unwrap().to_string()
    };
    let both = item("a.qcow2", &old) + &item("c.qcow2", &new);
    let error = rig.pipe("tdx-pool", ["delete", "-", "--yes"], &both).error(5);
    assert_eq!(error["applied"], json!(["deleted volume 'c.qcow2'"]), "{error}");
    // A key that the item lacks is not compared.
    let item = item_with(&old, json!({"pool_uuid": null}));
    let gone = rig.pipe("tdx-pool", ["delete", "-", "--yes"], &item).item();
    assert_eq!((&gone["action"], &gone["pool"]), (&json!("delete"), &json!("p")));
}

/// A machine named node1, with a network card and a disk.
fn machine() -> Tree {
    let mut host = Tree::new();
    let more = &[("reset_method", "flr bus"), ("modalias", "pci:x")][..];
    let nic = Spec { ids: "8086:1533", class: "020000", driver: "igb", group: Some(1), more };
    host.device("0000:00", "0000:00:01.0", nic);
    let ahci = Spec { ids: "8086:a352", class: "010601", driver: "ahci", group: Some(2), more };
    host.device("0000:00", "0000:00:17.0", ahci);
    host.disk("0000:00:17.0", "ata1/block", "sda", (8, 0), 0);
    let folder = format!("{}/ata1/block/sda", host.folder("0000:00:17.0"));
    host.file(&format!("{folder}/size"), "2097152\n");
    host.file(&format!("{folder}/wwid"), "naa.5000\n");
    host.file("run/udev/data/b8:0", "E:ID_SERIAL_SHORT=S-1\n");
    host.file("dev/sda", "");
    host.file("etc/hostname", "node1\n");
    host.file("proc/meminfo", "MemTotal: 1048576 kB\n");
    host
}

/// Runs a tool on the machine with `input` on standard input.
fn on(host: &Tree, name: &str, line: &str, input: &str) -> Run {
    let root = host.path("").display().to_string();
    tool_with_input(name, line.split(' ').chain(["--sysroot", &root]), input)
}

/// The verbs that take PCI devices.
const PCI_VERBS: [(&str, &str); 7] = [
    ("tdx-iommu", "scan -"),
    ("tdx-iommu", "check -"),
    ("tdx-gpu", "check -"),
    ("tdx-gpu", "hostdev -"),
    ("tdx-gpu", "hostdev - --xml"),
    ("tdx-gpu", "bind - --dry-run"),
    ("tdx-gpu", "unbind -"),
];

#[test]
fn an_item_of_another_pci_device_is_refused_by_every_verb() {
    let host = machine();
    let scan = host.iommu("scan 00:01.0").document();
    assert_eq!((&scan["host"], &scan["items"][0]["host"]), (&json!("node1"), &json!("node1")));
    for (tool, verb) in PCI_VERBS {
        for (keys, same) in [
            (json!({}), true),
            (json!({"vendor_id": "10de"}), false),
            (json!({"device_id": "1521"}), false),
            (json!({"host": "node2"}), false),
            (json!({"host": "NODE1.example.org"}), true),
            (json!({"vendor_id": null, "device_id": null, "serial": null, "host": null}), true),
            // The serial number is readable only for root, and only while the device is awake.
            (json!({"serial": "0123456789abcdef"}), true),
        ] {
            let run = on(&host, tool, verb, &item_with(&scan, keys.clone()));
            if same {
                assert_ne!(run.status, Some(5), "{tool} {verb} of {keys}: {run:#?}");
            } else {
                let message = refused(&run);
                assert!(message.contains("0000:00:01.0"), "{message}");
            }
        }
    }
    let message = refused(&on(
        &host,
        "tdx-gpu",
        "bind - -n",
        &item_with(&scan, json!({"vendor_id": "10de"})),
    ));
    assert!(message.contains("'8086'") && message.contains("'10de'"), "{message}");
    // The serial number is readable here.
    host.file(
        &format!("{}/serial_number", host.folder("0000:00:01.0")),
        "01-23-45-67-89-ab-cd-ef\n",
    );
    let other = item_with(&scan, json!({"serial": "0123456789abcdee"}));
    refused(&on(&host, "tdx-gpu", "bind - -n", &other));
    let right = item_with(&scan, json!({"serial": "0123456789ABCDEF"}));
    on(&host, "tdx-gpu", "bind - -n", &right).document();
    // If one item is refused, no device is changed.
    let both = item_with(&host.iommu("scan 00:17.0").document(), json!({})) + &other;
    refused(&on(&host, "tdx-gpu", "bind - -n", &both));
    // A verb compares the document that another verb prints.
    for (tool, line) in [
        ("tdx-iommu", "check 00:01.0"),
        ("tdx-gpu", "check 00:01.0"),
        ("tdx-gpu", "hostdev 00:01.0"),
        ("tdx-gpu", "bind 00:01.0 -n"),
        ("tdx-gpu", "unbind 00:01.0 -n"),
    ] {
        let document = on(&host, tool, line, "").document();
        on(&host, "tdx-iommu", "check -", &document.to_string()).document();
        let item = item_with(&document, json!({"device_id": "1521"}));
        refused(&on(&host, "tdx-iommu", "check -", &item));
    }
}

#[test]
fn an_item_of_another_disk_is_refused() {
    let host = machine();
    let list = host.run("tdx-disk", "list").document();
    assert_eq!(
        (&list["items"][0]["serial"], &list["items"][0]["wwn"], &list["host"]),
        (&json!("S-1"), &json!("naa.5000"), &json!("node1"))
    );
    for (keys, same) in [
        (json!({}), true),
        (json!({"serial": "S-2"}), false),
        (json!({"serial": "s-1"}), false),
        (json!({"wwn": "naa.5001"}), false),
        (json!({"host": "node2"}), false),
        (json!({"host": "Node1.example.org"}), true),
        (json!({"serial": null, "wwn": null, "host": null}), true),
        // A serial number that a guest sees is not the number of the disk.
        (json!({"serial": "S-2", "target": "vdb"}), true),
        (json!({"wwn": "naa.5001", "target": "vdb"}), false),
    ] {
        let run = on(&host, "tdx-disk", "check -", &item_with(&list, keys.clone()));
        if same {
            assert!(matches!(run.status, Some(0 | 10)), "{keys}: {run:#?}");
        } else {
            let message = refused(&run);
            assert!(message.contains("/dev/sda"), "{message}");
        }
    }
    let check = on(&host, "tdx-disk", "check sda", "");
    let check: Value = serde_json::from_str(&check.stdout).unwrap();
    refused(&on(&host, "tdx-disk", "check -", &item_with(&check, json!({"wwn": "naa.5001"}))));
}

#[test]
fn items_with_impossible_names_or_keys_are_refused_before_the_connection() {
    let unreachable = ["-c", "qemu+unix:///system?socket=/none"];
    for (tool, verb, items) in [
        ("tdx-td", "stop -", json!([{"name": ""}])),
        ("tdx-td", "stop -", json!([{"name": "a\0b"}])),
        ("tdx-td", "delete - --yes", json!([{"name": "a", "uuid": 7}])),
        ("tdx-td", "start -", json!([{"name": "a", "host": ["node1"]}])),
        ("tdx-td", "hostdevs - -y", json!([{"vm": "", "devices": []}])),
        (
            "tdx-td",
            "hostdevs - -y",
            json!([{"vm": "a", "devices": [{"bdf": "1:0.0", "vendor_id": 4318}]}]),
        ),
        ("tdx-td", "new --base -", json!([{"name": "", "pool": "p"}])),
        ("tdx-td", "new --base -", json!([{"name": "a", "pool": "\0"}])),
        ("tdx-pool", "delete - --yes", json!([{"name": ""}])),
        ("tdx-pool", "delete - --yes", json!([{"name": "a", "pool": ""}])),
        ("tdx-pool", "delete - --yes", json!([{"name": "a", "pool_uuid": {}}])),
        ("tdx-pool", "import -", json!([{"path": ""}])),
        ("tdx-pool", "import -", json!([{"path": "/a\0"}])),
        ("tdx-disk", "check -", json!([{"device": ""}])),
        ("tdx-disk", "attach vm -", json!([{"device": "sd\0a"}])),
        ("tdx-disk", "check -", json!([{"device": "sda", "serial": 1}])),
    ] {
        let run = tool_with_input(
            tool,
            unreachable.into_iter().chain(verb.split(' ')),
            &items.to_string(),
        );
        let error = run.error(3);
        assert!(error["message"].as_str().unwrap().contains("item 1"), "{tool} {verb}: {error}");
    }
    // Documents of other kinds, whose items also have names.
    for kind in ["tdx.td.scenarios", "tdx.td.overlay", "tdx.td.firmware", "tdx.td.host_check"] {
        let document = json!({"schema_version": "1.1", "kind": kind, "items": [{"name": "a"}]});
        let words = unreachable.into_iter().chain(["delete", "-", "--yes"]);
        tool_with_input("tdx-td", words, &document.to_string()).error(3);
    }
}
