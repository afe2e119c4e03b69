//! The firmware that libvirt chooses.

use super::*;

/// A libvirt with TDX gives guests the firmware that the tool predicts.
#[test]
#[ignore = "needs root"]
fn libvirt_chooses_the_build_that_firmware_predicts() {
    let rig = Rig::start_tdx();
    let choose =
        |features, stateless, more| compare(&rig, &Request { features, stateless, more, ..PLAIN });
    let plain = choose(&[], None, "").unwrap();
    assert_eq!(choose(&["secure-boot"], None, ""), Some(plain));
    let keyless = choose(&["secure-boot", "no-enrolled-keys"], None, "");
    let insecure = choose(&["no-secure-boot"], Some(false), "");
    assert!(keyless.is_some() && insecure.is_some() && keyless != insecure);
    choose(&["no-secure-boot"], None, "");
    choose(&["no-secure-boot"], Some(true), "");
    let tdx = choose(&["intel-tdx"], None, "<launchSecurity type='tdx'/>").unwrap();
    assert!(tdx.contains("inteltdx"), "{tdx}");

    let item = rig.tool("tdx-td", ["firmware", "-f", "intel-tdx"]).item();
    assert_eq!((&item["executable"]["path"], &item["offered"]), (&json!(tdx), &json!(true)));
    assert_eq!((&item["device"], &item["usable"]), (&json!("memory"), &json!(true)));
    // The administrator overrides the build by one of the same name, and libvirt must follow.
    let replace = "mkdir -p /etc/qemu/firmware && cp /usr/share/ovmf/OVMF.inteltdx*.fd /srv/ours.fd && \
        sed 's|/usr/share/ovmf/[^\"]*|/srv/ours.fd|' /usr/share/qemu/firmware/$1 >/etc/qemu/firmware/$1";
    rig.shell(&replace.replace("$1", item["name"].as_str().unwrap())).text();
    let ours = choose(&["intel-tdx"], None, "<launchSecurity type='tdx'/>");
    assert_eq!(ours.as_deref(), Some("/srv/ours.fd"));
    // The administrator hides the build, and no build is left.
    rig.shell(&format!(": >/etc/qemu/firmware/{}", item["name"])).text();
    assert_eq!(choose(&["intel-tdx"], None, "<launchSecurity type='tdx'/>"), None);
}

/// Requests for firmware, including those of trust domains.
const REQUESTS: [Request<'_>; 14] = [
    PLAIN,
    Request { stateless: Some(true), ..PLAIN },
    Request { stateless: Some(false), ..PLAIN },
    Request { features: &["secure-boot"], ..PLAIN },
    Request { features: &["no-secure-boot"], ..PLAIN },
    Request { features: &["secure-boot", "no-enrolled-keys"], ..PLAIN },
    Request { features: &["no-secure-boot", "no-enrolled-keys"], stateless: Some(false), ..PLAIN },
    Request { features: &["acpi-s3"], ..PLAIN },
    Request { machine: "pc", ..PLAIN },
    Request { interface: "bios", ..PLAIN },
    Request { interface: "bios", stateless: Some(true), ..PLAIN },
    Request { features: &["intel-tdx"], more: TDX, ..PLAIN },
    Request { features: &["intel-tdx"], stateless: Some(true), more: TDX, ..PLAIN },
    Request { features: &["intel-tdx", "no-secure-boot"], more: TDX, ..PLAIN },
];

/// The tool lists the loaders that a new libvirt lists, and chooses the build that libvirt gives.
#[test]
#[ignore = "needs root"]
fn the_choice_over_odd_directories_agrees_with_libvirt() {
    compare_choices(&Rig::start_tdx(), &REQUESTS, Loaders::Described);
}

#[test]
#[ignore = "needs root"]
fn the_choice_of_a_stateless_build_with_a_template_agrees_with_libvirt() {
    let rig = Rig::start_tdx();
    let directories = OddDirectories::mount(&rig);
    let text = directories.flash("amdsev.fd", "stateless", &["amd-sev"]);
    fs::write(directories.admin().join("50-amdsev.json"), text).unwrap();
    let item = rig.tool("tdx-td", ["firmware", "-f", "amd-sev"]).item();
    assert_eq!((&item["offered"], &item["chosen"]), (&json!(true), &json!(true)), "{item}");
    for stateless in [None, Some(true)] {
        let given = compare(&rig, &Request { stateless, ..PLAIN });
        assert_eq!(given.as_deref(), item["executable"]["path"].as_str());
    }
    assert_eq!(compare(&rig, &Request { stateless: Some(false), ..PLAIN }), None);
}
