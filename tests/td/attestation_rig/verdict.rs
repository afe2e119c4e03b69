//! Measurements, and guests that run or are destroyed because of them.

use super::*;

/// The stand-in for the firmware signs as real firmware does.
///
/// Source: sevctl, tests/measurementbuild.rs: key, digest and nonce with the measurement they make.
#[test]
fn the_stand_ins_measurement_equals_the_published_example() {
    let hex = "3569cf61a32a602b87185ac6e0f55913";
    let byte = |at: usize| u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).unwrap();
    let tik: [u8; 16] = std::array::from_fn(byte);
    let of = |text: &str| BASE64.decode(text).unwrap();
    let digest = of("xkvRAfyaSizgonxAjZIAkR8TmolUabBKQKb6KJCDDSM=");
    let nonce = of("wxP6tRHCFrFQWxsuqZA8QA==");
    let message = [&[4, 1, 40, 40, 3, 0, 0, 0][..], &digest, &nonce].concat();
    let launch =
        Launch { tik, api: (1, 40), build: 40, policy: 3, digest: digest.try_into().unwrap() };
    assert_eq!(
        launch.sign_message(&message),
        "lswbxWxI9gckya16JQvdFtpYmNO4b+3inAPpqsgoBI7DE/q1EcIWsVBbGy6pkDxA"
    );
}

/// `tdx-td firmware` predicts the firmware of a guest that AMD SEV protects.
#[test]
#[ignore = "needs root"]
fn firmware_predicts_the_build_that_libvirt_gives_to_a_sev_guest() {
    let rig = sev_rig();
    let directories = OddDirectories::mount(&rig);
    let put = |name: &str, text: &str| fs::write(directories.admin().join(name), text).unwrap();
    let request = Request {
        features: &["amd-sev"],
        more: "<launchSecurity type='sev'><cbitpos>51</cbitpos><reducedPhysBits>1</reducedPhysBits>\
               <policy>0x0003</policy></launchSecurity>",
        ..PLAIN
    };
    put("20-plain.json", &directories.flash("plain.fd", "split", &[]));
    assert_eq!(compare(&rig, &request), None);
    put("60-split.json", &directories.flash("split.fd", "split", &["amd-sev"]));
    let split = compare(&rig, &request).unwrap();
    put("50-stateless.json", &directories.flash("stateless.fd", "stateless", &["amd-sev"]));
    let stateless = compare(&rig, &request).unwrap();
    assert_ne!(split, stateless);
    assert_eq!(compare(&rig, &Request { stateless: Some(false), ..request }), Some(split));
    assert_eq!(compare(&rig, &Request { stateless: Some(true), ..request }), Some(stateless));
}

#[test]
#[ignore = "needs root"]
fn a_guest_with_the_right_measurement_runs_and_another_is_destroyed() {
    let host = Host::start();
    let before = host.rig.state();
    let bad = Launch { digest: [1; 32], ..host.good() };

    // A guest whose first measurement is wrong leaves nothing behind.
    host.report(&bad);
    let error = refused(&host.create(""), 1, "is not the expected one");
    assert_eq!((&error["code"], &error["left_behind"]), (&json!("NOT_ATTESTED"), &json!([])));
    assert_eq!((host.rig.state(), host.emulators().as_str()), (before.clone(), "0"));
    assert!(!host.rig.path(KEPT).exists());

    host.report(&host.good());
    let made = host.create("").item();
    assert_eq!((&made["security"], &made["state"]), (&json!("sev"), &json!("running")));
    let folder = host.rig.path(KEPT);
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&folder), 0o700);
    let mut files: Vec<String> = fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap())
        .map(|entry| {
            assert_eq!(mode(&entry.path()), 0o600, "{entry:?}");
            entry.file_name().into_string().unwrap()
        })
        .collect();
    files.sort();
    let wanted = ["config.yaml", "domain.xml", "godh.b64", "session.b64", "tek.bin", "tik.bin"];
    assert_eq!(files, wanted);
    assert_eq!(fs::read(folder.join("tik.bin")).unwrap(), TIK);
    let record = fs::read_to_string(folder.join("config.yaml")).unwrap();
    for line in ["name: vault\n", "attestation: true\n", "policy: 3\n"] {
        assert!(record.contains(line), "{record}");
    }
    assert_eq!(host.create("").document()["changed"], false);
    assert_eq!(host.attested(), true);
    assert_eq!(td(&host.rig, "show vault").item()["attested"], Value::Null);

    // A second start, with and without --attest.
    for line in ["start vault", "start --attest vault"] {
        off(&host);
        assert_eq!(td(&host.rig, "show --attest vault").item()["attested"], Value::Null);
        let run = td(&host.rig, line);
        let started: Value = serde_json::from_str(run.text()).unwrap();
        let item = &started["items"][0];
        assert_eq!((&item["action"], &item["attested"]), (&json!("start"), &json!(true)));
        let warnings = started["warnings"].to_string();
        assert!(
            warnings.contains("--sev-firmware") && warnings.contains("variables"),
            "{warnings}"
        );
        assert_eq!(host.state(), "running");
    }

    // A running guest with a wrong measurement is reported, but not destroyed.
    host.report(&bad);
    assert_eq!(host.attested(), false);
    refused(&td(&host.rig, "start --attest vault"), 1, "NOT_ATTESTED");
    assert_eq!(host.state(), "running");
    off(&host);
    for line in ["start vault", "start --attest vault"] {
        refused(&td(&host.rig, line), 1, "NOT_ATTESTED");
        assert_eq!((host.state().as_str(), host.emulators().as_str()), ("shut off", "0"));
    }

    // A guest that a killed command has left paused is measured by the next start.
    host.rig.virsh(["start", "--paused", "vault"]);
    refused(&td(&host.rig, "start vault"), 1, "NOT_ATTESTED");
    assert_eq!(host.state(), "shut off");
    host.report(&host.good());
    host.rig.virsh(["start", "--paused", "vault"]);
    let run = td(&host.rig, "start vault --json -q");
    assert_eq!(serde_json::from_str::<Value>(run.text()).unwrap()["items"][0]["action"], "resume");

    let gone = td(&host.rig, "delete vault --yes --timeout 0").item();
    assert!(gone["deleted"].to_string().contains(KEPT), "{gone}");
    assert!(!folder.exists());
    assert_eq!(host.rig.state(), before);
}

#[test]
#[ignore = "needs root"]
fn the_verdict_agrees_with_virt_qemu_sev_validate() {
    let host = Host::start();
    host.create("").item();
    let good = host.good();
    let other = *b"another key of16";
    let flipped = {
        let mut bytes = BASE64.decode(good.sign()).unwrap();
        bytes[0] ^= 1;
        BASE64.encode(bytes)
    };
    let cases = [
        ("as it was to be", good.clone(), good.sign(), true),
        ("a bit flipped", good.clone(), flipped, false),
        ("another nonce", good.clone(), good.sign().replace("Bwc", "Bxc"), false),
        ("another policy", Launch { policy: 1, ..good.clone() }, String::new(), false),
        ("other firmware", Launch { digest: [0; 32], ..good.clone() }, String::new(), false),
        ("another key", Launch { tik: other, ..good.clone() }, String::new(), false),
        ("a build it is not", Launch { build: 4, ..good.clone() }, good.sign(), false),
        ("an interface it is not", Launch { api: (1, 50), ..good.clone() }, good.sign(), false),
    ];
    for (what, launch, measurement, wanted) in cases {
        let signed = if measurement.is_empty() { launch.sign() } else { measurement };
        host.report_as(&launch, &signed);
        let reference = host.reference();
        assert_eq!(reference.status == Some(0), wanted, "{what}: {reference:#?}");
        assert_eq!(host.attested(), wanted, "{what}");
    }
    // An invalid measurement is not judged.
    host.report_as(&good, "AAA");
    let reference = host.reference();
    assert!(!matches!(reference.status, Some(0 | 1)), "{reference:#?}");
    refused(&td(&host.rig, "show --attest vault"), 1, "virt-qemu-sev-validate");
}

/// The measurement covers the registers of the guest's processors. virt-qemu-sev-validate computes them from
/// libvirt's description, and the test signs its result.
#[test]
#[ignore = "needs root"]
fn sev_es_measurement_includes_the_registers_of_the_processors() {
    let host = Host::start();
    let good = Launch { policy: 7, ..host.good() };
    host.report(&good);
    let line = "new -i guest.qcow2 --memory 256M --vcpus 2 --name vault --security sev-es \
        --sev-dh-cert cert --sev-session session --sev-tik tik.bin --sev-tek tek.bin";
    refused(&td(&host.rig, &words(line).concat_words()), 1, "NOT_ATTESTED");

    // A copy of the domain without stored keys, for virt-qemu-sev-validate.
    let xml = "<domain type='kvm'><name>probe</name><memory unit='MiB'>256</memory><vcpu>2</vcpu>\
        <os firmware='efi'><type arch='x86_64' machine='q35'>hvm</type></os>\
        <features><acpi/></features><cpu mode='host-passthrough'/>\
        <launchSecurity type='sev'><policy>0x0007</policy>\
        <dhCert>Y2VydA==</dhCert><session>c2Vzc2lvbg==</session></launchSecurity></domain>";
    td::define(&host.rig, xml);
    host.rig.virsh(["start", "--paused", "probe"]);
    let xml = host.rig.virsh(["dumpxml", "probe"]);
    let loader = xml.split_once("</loader>").unwrap().0.rsplit('>').next().unwrap();
    let seen = host.rig.shell(&format!(
        "PATH=/usr/bin:/bin virt-qemu-sev-validate --debug --insecure --domain probe \
         --firmware {loader} --tik tik.bin --tek tek.bin 2>&1"
    ));
    host.rig.virsh(["destroy", "probe"]);
    let message = seen.stdout.lines().find_map(|line| line.split("Measured-msg(hex): ").nth(1));
    let message = message.unwrap_or_else(|| panic!("{seen:#?}"));
    let message: Vec<u8> = (0..message.len() / 2)
        .map(|at| u8::from_str_radix(&message[2 * at..2 * at + 2], 16).unwrap())
        .collect();
    assert_ne!(message[8..40], good.digest, "more than the firmware is measured");
    host.report_as(&good, &good.sign_message(&message));
    assert_eq!(td(&host.rig, &words(line).concat_words()).item()["state"], "running");
    assert_eq!(host.attested(), true);
    off(&host);

    // The registers of a processor other than the host's are unknown.
    let xml = host.rig.virsh(["dumpxml", "--inactive", "--security-info", "vault"]);
    td::define(&host.rig, &xml.replace("mode='host-passthrough'", "mode='maximum'"));
    refused(&td(&host.rig, "start vault"), 6, "host-passthrough");
    assert_eq!(host.state(), "shut off");
}
