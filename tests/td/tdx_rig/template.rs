//! Trust domains from templates of users.

use super::*;

/// `tdx-td new -t TEMPLATE` for a small guest.
fn from_template<'a>(template: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let basic = ["new", "-i", "guest.qcow2", "-t", template, "--memory", "512M", "--vcpus", "1"];
    [&basic, more].concat()
}

#[test]
#[ignore = "needs root"]
fn an_original_template_starts_with_fix_template_and_is_refused_without() {
    let rig = rig_with_image();
    let before = rig.state();
    for name in CANONICAL {
        let file = format!("{name}.xml.template");
        rig.template(&file, &canonical(name));
        let refused = rig.tool("tdx-td", from_template(&file, &[])).error(3);
        let message = refused["message"].as_str().unwrap();
        assert!(message.contains("element domain/allowReboot (line 2)"), "{message}");
        assert!(message.contains("attribute enable of domain/pm/suspend-to-mem"), "{message}");
        assert_eq!(message.contains("SocketAddress"), name != "regular_vm", "{message}");
        let render =
            ["render", "-i", "guest.qcow2", "-t", &file, "--memory", "512M", "--vcpus", "1"];
        assert_eq!(rig.tool("tdx-td", render).error(3), refused);
        assert!(refused["hint"].as_str().unwrap().contains("--fix-template"), "{refused}");
    }
    if !std::path::Path::new("/dev/vhost-vsock").exists() {
        let file = "trust_domain.xml.template";
        let refused = rig.tool("tdx-td", from_template(file, &["--fix-template"])).error(6);
        assert_eq!(refused["hint"], "modprobe vhost_vsock");
    }

    // This machine may lack vhost-vsock; the templates are otherwise unchanged.
    for name in CANONICAL {
        let file = format!("{name}.xml.template");
        rig.template(&file, &without(&canonical(name), "vsock"));
        let made = rig.tool("tdx-td", from_template(&file, &["--fix-template"])).document();
        let item = &made["items"][0];
        let domain = item["name"].as_str().unwrap();
        let uuid = item["uuid"].as_str().unwrap();
        assert_eq!(domain, format!("tdvirsh-{name}-{uuid}"));
        assert_eq!((&item["memory_bytes"], &item["vcpus"]), (&json!(512 << 20), &json!(1)));
        assert_eq!(item["ssh"], json!({"host": "127.0.0.1", "port": 2201}));
        let warnings = made["warnings"].to_string();
        assert!(warnings.contains("element domain/allowReboot (line 2) was removed"), "{warnings}");
        assert_eq!(warnings.matches("was renamed to enabled").count(), 2, "{warnings}");
        assert!(warnings.contains("hostfwd=tcp:127.0.0.1:2201-:22"), "{warnings}");

        let argv = argv_of(&rig, domain);
        let secure = name != "regular_vm";
        assert_eq!(item["security"], if secure { "tdx" } else { "none" });
        if secure {
            assert_eq!(launch_object(&argv)["attributes"], 0x1000_0000);
            let socket = &launch_object(&argv)["quote-generation-socket"];
            assert_eq!(socket["path"], "/var/run/tdx-qgs/qgs.socket");
            assert!(argv.iter().any(|a| a.contains("inteltdx")), "no TDX firmware: {argv:?}");
            assert!(!argv.iter().any(|a| a.contains("balloon")), "a balloon: {argv:?}");
        }
        // The port is in the definition: it stays the same after a restart, and no other domain gets it.
        rig.tool("tdx-td", ["stop", domain, "--force", "--yes"]).document();
        let other = rig.tool("tdx-td", from_template(&file, &["--fix-template"])).item();
        assert_eq!(other["ssh"]["port"], 2202);
        assert_eq!(rig.tool("tdx-td", ["start", domain]).item()["action"], "start");
        assert_eq!(rig.tool("tdx-td", ["show", domain]).item()["ssh"], item["ssh"]);
        rig.tool("tdx-td", ["delete", "--all", "--yes", "--timeout", "0"]).document();
        assert_eq!(rig.state(), before);
    }
    // A guest of such a template boots, is found and is shut down.
    let flags = ["--fix-template", "--name", "td1", "--wait", "ip"];
    rig.tool("tdx-td", from_template("trust_domain-sb.xml.template", &flags)).document();
    assert_eq!(rig.tool("tdx-td", ["delete", "td1", "--yes"]).item()["forced"], false);
    assert_eq!(rig.state(), before);
}

#[test]
#[ignore = "needs root"]
fn new_accepts_an_upstream_template_unchanged() {
    let rig = rig_with_image();
    let before = rig.state();
    let template = repository().join("examples/templates/trust_domain.xml");
    let template = template.to_str().unwrap();
    let owner = "stat -c '%a %U' /var/lib/libvirt/images/guest.qcow2";
    let base = rig.shell(owner).text().to_owned();
    let named = ["--name", "td1"];
    let made = rig.tool("tdx-td", from_template(template, &named)).document();
    assert_eq!(made["items"][0]["security"], "tdx");
    assert_eq!(rig.shell(owner).text(), base, "the base image changed hands");
    let again = rig.tool("tdx-td", from_template(template, &named)).document();
    assert_eq!(again["changed"], false);
    let other = ["--name", "td1", "--disk-size", "8G"];
    let other = rig.tool("tdx-td", from_template(template, &other)).error(5);
    assert!(other["message"].as_str().unwrap().contains("disk_size_bytes"), "{other}");

    let text = fs::read_to_string(template).unwrap();
    let changed = rig.template("changed.xml", &text.replace("utc", "localtime"));
    let changed = rig.tool("tdx-td", from_template(changed.to_str().unwrap(), &named)).error(5);
    assert!(
        changed["message"].as_str().unwrap().contains("or the template was changed since"),
        "{changed}"
    );
    rig.tool("tdx-td", ["delete", "td1", "--yes", "--timeout", "0"]).document();
    assert_eq!(rig.state(), before);
}

#[test]
#[ignore = "needs root"]
fn new_refuses_a_template_with_parts_that_a_trust_domain_cannot_have() {
    let rig = rig_with_image();
    let before = rig.state();
    let text =
        fs::read_to_string(repository().join("examples/templates/trust_domain.xml")).unwrap();
    let acpi = "<acpi/>";
    for (from, to, says) in [
        ("<boot dev='hd'/>", "<loader type='pflash'>/x.fd</loader>", "pflash"),
        (acpi, "<acpi/><smm state='on'/>", "smm"),
        (acpi, "<acpi/><pmu state='on'/>", "pmu"),
        ("driver='qemu'", "driver='kvm'", "ioapic"),
        ("host-passthrough", "host-model", "CPU"),
        ("<devices>", "<memoryBacking><hugepages/></memoryBacking><devices>", "hugepages"),
        ("model='none'", "model='virtio'", "balloon"),
        ("<cpu mode='host-passthrough'/>", "", "CPU"),
        (acpi, "<acpi/><smm/>", "smm"),
        ("<devices>", "<devices><iommu model='intel'/>", "IOMMU"),
        ("0x10000000", "0x10000002", "policy"),
    ] {
        assert!(text.contains(from), "{from}");
        rig.template("bad.xml", &text.replace(from, to));
        let refused = rig.tool("tdx-td", from_template("bad.xml", &[])).error(3);
        assert!(refused["message"].as_str().unwrap().contains(says), "{says}: {refused}");
    }
    // A loader in the template is kept, also if other parts are translated.
    let own = text.replace(" firmware='efi'", "");
    rig.template("own.xml", &own.replace("<boot dev='hd'/>", "<loader type='rom'>/my.fd</loader>"));
    let line = ["render", "-i", "guest.qcow2", "-t", "own.xml", "--memory", "512M", "--xml"];
    let kept = rig.tool("tdx-td", [&line[..], &["--fix-template"]].concat());
    assert!(kept.text().contains("/my.fd"), "{kept:#?}");
    // Faults that only libvirt finds come from its validation, and leave nothing behind.
    rig.template("bad.xml", &text.replace("<acpi/>", "<acpi/><nonsense/>"));
    rig.tool("tdx-td", from_template("bad.xml", &[])).error(3);
    assert_eq!(rig.state(), before);
}
