//! Definitions that libvirt accepts.

use super::*;

/// Every subset of the optional values, in `values`' order.
fn subsets<T: Copy>(values: &[T]) -> impl Iterator<Item = Vec<T>> {
    (0..1u32 << values.len()).map(|chosen| {
        let taken = values.iter().enumerate().filter(|(i, _)| chosen >> i & 1 == 1);
        taken.map(|(_, value)| *value).collect()
    })
}

#[test]
#[ignore = "needs root"]
fn libvirt_accepts_every_combination_of_launch_values() {
    let rig = rig_with_image();
    let before = rig.state();
    let mut count = 0;
    let optional = [
        &["--td-debug"][..],
        &["--sept-ve-disable", "off"],
        &["--mr-config-id", OWNER],
        &["--mr-owner", OWNER],
        &["--mr-owner-config", OWNER],
    ];
    for (index, flags) in subsets(&optional).enumerate() {
        let qgs = [&["--qgs", "none"][..], &["--qgs", "/run/q.sock"], &[]][index % 3];
        let line = [&["render", "-i", "guest.qcow2", "--xml"][..], &flags.concat(), qgs].concat();
        let xml = rig.tool("tdx-td", line).text().to_owned();
        fs::write(rig.scratch().join(format!("tdx{index}.xml")), xml).unwrap();
        count += 1;
    }
    assert_eq!(count, 32);
    // libvirt defines each of them, and the stored definition has every requested value.
    let define = "for x in tdx*.xml; do virsh -q define --validate $x >/dev/null || echo bad $x; \
        name=$(sed -n 's|.*<name>\\(.*\\)</name>.*|\\1|p' $x); \
        for value in policy mrConfigId mrOwner mrOwnerConfig quoteGenerationService; do \
        [ \"$(grep -c \"<$value\" $x)\" = \"$(virsh dumpxml $name | grep -c \"<$value\")\" ] || \
        echo lost $value in $x; done; virsh -q undefine --nvram $name; done";
    assert_eq!(rig.shell(define).text(), "");
    assert_eq!(rig.state(), before);
}

/// The definitions of AMD SEV guests, which this host cannot run, are validated by the schema alone.
#[test]
#[ignore = "needs root"]
fn the_schema_accepts_sev_definitions() {
    let rig = rig_with_image();
    let host_data = "00".repeat(32);
    let (block, auth) = ("00".repeat(96), "00".repeat(4096));
    fs::write(rig.scratch().join("cert"), "certificate").unwrap();
    let cert = rig.scratch().join("cert");
    let cert = cert.to_str().unwrap();
    let early = [&["--sev-dh-cert", cert][..], &["--sev-session", cert]];
    let snp = [
        &["--snp-host-data", &host_data][..],
        &["--snp-id-block", &block, "--snp-id-auth", &auth],
        &["--snp-vcek", "off"],
    ];
    let policies =
        [("sev", "0x1", &early[..]), ("sev-es", "0x5", &early), ("sev-snp", "0x30000", &snp)];
    let mut count = 0;
    for (security, policy, optional) in policies {
        for flags in subsets(optional) {
            for policy in [&[][..], &["--sev-policy", policy]] {
                let xml = sev_xml(security, &[&flags.concat(), policy].concat());
                fs::write(rig.scratch().join(format!("sev{count}.xml")), xml).unwrap();
                count += 1;
            }
        }
    }
    assert_eq!(count, 32);
    let define = "for x in sev*.xml; do \
        virsh -q -c test:///default define --validate $x >/dev/null || echo bad $x; done";
    assert_eq!(rig.shell(define).text(), "");
    let refused = rig.tool("tdx-td", new(&["--security", "sev-snp"])).error(6);
    let message = refused["message"].to_string();
    assert!(message.contains("does not support SEV-SNP guests: module kvm_amd"), "{message}");
}

/// The definitions of every scenario with every protection, validated by the newest schema.
#[test]
#[ignore = "needs root"]
fn the_schema_accepts_the_definitions_of_every_scenario() {
    use clap::ValueEnum;

    let rig = Rig::start_tdx();
    let mut count = 0;
    for scenario in ["default", "td", "securevm", "computation", "desktop"] {
        for &security in Security::value_variants() {
            // A trust domain cannot have the shared directory of desktop or the memory of computation.
            if security == Security::Tdx && matches!(scenario, "computation" | "desktop") {
                continue;
            }
            let choice = plain_guest::choice(scenario, security);
            let xml = plain_guest::xml(choice, security, VirtType::Kvm, &[]);
            fs::write(rig.scratch().join(format!("{scenario}-{security}.xml")), xml).unwrap();
            count += 1;
        }
    }
    assert_eq!(count, 23);
    let define = "for x in *.xml; do \
        virsh -q -c test:///default define --validate $x >/dev/null || echo bad $x; done";
    assert_eq!(rig.shell(define).text(), "");
}

#[test]
#[ignore = "needs root"]
fn new_with_a_tdx_scenario_starts_a_trust_domain() {
    let rig = rig_with_image();
    let before = rig.state();
    for scenario in ["td", "securevm"] {
        let made = rig.tool("tdx-td", new(&["--scenario", scenario])).document();
        let item = &made["items"][0];
        assert_eq!((&item["security"], &item["state"]), (&"tdx".into(), &"running".into()));
        let argv = argv(&rig);
        launch_object(&argv);
        assert!(!argv.iter().any(|a| a.contains("VGA") || a.contains("qxl") || a.contains("vnc")));
        rig.tool("tdx-td", ["delete", "td1", "--yes", "--timeout", "0"]).item();
        assert_eq!(rig.state(), before);
    }
    let refused = rig.tool("tdx-td", new(&["--scenario", "desktop", "--security", "tdx"])).error(2);
    assert!(refused["message"].as_str().unwrap().contains("host_filesystem"), "{refused}");
}

/// The definition that the flags produce, without a host that could run the guest.
fn sev_xml(security: &str, flags: &[&str]) -> String {
    let security = security.parse().unwrap();
    plain_guest::xml(plain_guest::choice("default", security), security, VirtType::Kvm, flags)
}
