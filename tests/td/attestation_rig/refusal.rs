//! Signals, and missing keys, programs and records.

use super::*;

#[test]
#[ignore = "needs root"]
fn a_signal_never_leaves_a_guest_paused() {
    let host = Host::start();
    host.create("").item();
    off(&host);
    // The validator runs until its file is removed, so that the test has time to stop the command.
    let slow = "#!/bin/sh\n[ \"$1\" = --help ] || { : >/tmp/measuring.$$; \
        while [ -e /tmp/measuring.$$ ]; do sleep 0.05; done; }\n\
        exec /usr/bin/virt-qemu-sev-validate \"$@\"\n";
    let path = host.rig.path("/usr/local/bin/virt-qemu-sev-validate");
    fs::write(&path, slow.replace("/tmp", &host.rig.scratch().display().to_string())).unwrap();
    fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
    let start = |signal: &str| {
        host.rig.shell(&format!(
            "PATH=/usr/local/bin:/usr/bin:/bin; '{}' start --attest vault & tool=$!
             until ls measuring.* 2>/dev/null; do sleep 0.05; done
             virsh domstate vault; kill -{signal} $tool; rm -f measuring.*; wait $tool; echo $?",
            tools::bin("tdx-td").display()
        ))
    };
    for (signal, status) in [("TERM", "143"), ("INT", "130"), ("HUP", "129")] {
        // A shell starts background commands with SIGINT ignored.
        let signal_heard = if signal == "INT" { "TERM" } else { signal };
        let run = start(signal_heard);
        assert!(run.stdout.contains("paused"), "{run:#?}");
        let wanted = if signal == "INT" { "143" } else { status };
        assert!(run.stdout.lines().any(|line| line == wanted), "{run:#?}");
        assert_eq!((host.state().as_str(), host.emulators().as_str()), ("shut off", "0"));
    }
    let run = start("KILL");
    assert!(run.stdout.contains("137"), "{run:#?}");
    assert_eq!(host.state(), "paused");
    fs::remove_file(&path).unwrap();
    let run = td(&host.rig, "start --attest vault");
    let item = serde_json::from_str::<Value>(run.text()).unwrap()["items"][0].clone();
    assert_eq!((&item["action"], &item["attested"]), (&json!("resume"), &json!(true)));

    // A guest that a killed `new` leaves is found by its name.
    td(&host.rig, "delete vault --yes --timeout 0").item();
    let before = host.rig.state();
    for after in [30, 60, 90, 150, 250, 400] {
        let new = "tdx-td new -i guest.qcow2 --memory 256M --vcpus 1 --name vault --security sev \
            --sev-dh-cert cert --sev-session session --sev-tik tik.bin --sev-tek tek.bin";
        host.rig.shell(&format!("timeout -s KILL 0.{after:03} {new}"));
        wait_for("libvirtd idle", || {
            let list = td(&host.rig, "list").document();
            let busy = list["items"].as_array()?.iter().any(|item| item["state"] == "no state");
            (!busy).then_some(())
        });
        td(&host.rig, "delete vault --yes --timeout 0").document();
        assert!(!host.rig.path(KEPT).exists(), "after {after} ms");
        host.rig.tool("tdx-pool", ["cleanup", "--yes"]).document();
        assert_eq!(host.rig.state(), before, "after {after} ms");
    }
}

#[test]
#[ignore = "needs root"]
fn missing_or_wrong_keys_are_refused_before_a_guest_starts() {
    let host = Host::start();
    let rig = &host.rig;
    let before = rig.state();
    fs::write(rig.scratch().join("short.bin"), "short").unwrap();
    let line = "new -i guest.qcow2 --memory 256M --vcpus 1 --name vault --security sev";
    for (more, status, says) in [
        ("--sev-tik tik.bin", 2, "--sev-tek"),
        ("--sev-tik tik.bin --sev-tek tek.bin", 2, "--sev-session"),
        ("--sev-cert cert", 2, "--sev-attest"),
        ("--sev-firmware cert", 2, "--sev-attest"),
        ("--sev-attest --sev-session session", 2, "cannot be used with"),
        ("--sev-attest", 6, "sevctl is not installed"),
        (
            "--sev-dh-cert cert --sev-session session --sev-tik no.bin --sev-tek tek.bin",
            4,
            "no.bin",
        ),
        (
            "--sev-dh-cert cert --sev-session session --sev-tik short.bin --sev-tek tek.bin",
            3,
            "5 bytes",
        ),
        (
            "--sev-dh-cert cert --sev-session session --sev-tik tik.bin --sev-tek tek.bin \
             --sev-firmware no.fd",
            4,
            "no.fd",
        ),
    ] {
        refused(&td(rig, &words(&format!("{line} {more}")).concat_words()), status, says);
    }
    let snp = "new -i guest.qcow2 --security sev-snp --name vault --sev-attest";
    refused(&td(rig, snp), 2, "do not apply to SEV-SNP");
    assert_eq!(rig.state(), before);
    assert!(!rig.path(KEPT).exists());

    host.create("").item();
    off(&host);
    let start = || td(rig, "start --attest vault");
    let dry = || td(rig, "start --attest vault --dry-run");
    let stays_off =
        || assert_eq!((host.state().as_str(), host.emulators().as_str()), ("shut off", "0"));
    let tik = rig.path(KEPT).join("tik.bin");
    fs::set_permissions(&tik, PermissionsExt::from_mode(0o644)).unwrap();
    refused(&start(), 5, "other users may access");
    fs::remove_file(&tik).unwrap();
    refused(&start(), 4, "tik.bin");
    refused(&td(rig, "start vault"), 4, "tik.bin");
    refused(&dry(), 4, "tik.bin");
    fs::write(&tik, TIK).unwrap();
    fs::set_permissions(&tik, PermissionsExt::from_mode(0o600)).unwrap();
    stays_off();

    let xml = rig.virsh(["dumpxml", "--inactive", "--security-info", "vault"]);
    // The definition names the firmware, so that libvirt does not choose it.
    let (head, rest) = xml.split_once("<firmware>").unwrap();
    let rest = rest.split_once("</firmware>").unwrap().1;
    let manual = format!("{}{rest}", head.replace(" firmware='efi'", ""));
    for (from, to, says) in [
        ("<policy>0x0003</policy>", "<policy>0x0001</policy>", "is not 0x3"),
        ("c2Vzc2lvbg==", "b3RoZXI=", "the session in the definition of domain 'vault'"),
        ("Y2VydA==", "b3RoZXI=", "the dhCert in the definition of domain 'vault'"),
        ("OVMF_CODE_4M.ms.fd", "OVMF_CODE_gone.fd", "OVMF_CODE_gone.fd"),
    ] {
        assert!(manual.contains(from), "{from} is not in {manual}");
        td::define(rig, &manual.replace(from, to));
        let run = start();
        assert!(matches!(run.status, Some(4 | 5)), "{run:#?}");
        refused(&run, run.status.unwrap(), says);
        stays_off();
    }
    let kernel = "<kernel>/boot/vmlinuz</kernel><loader";
    td::define(rig, &manual.replacen("<loader", kernel, 1));
    refused(&start(), 6, "boots a kernel");
    td::define(rig, &xml);

    let tool = tools::bin("tdx-td");
    let bare = format!("mkdir -p bare; PATH=$PWD/bare '{}' start --attest vault", tool.display());
    refused(&rig.shell(&bare), 6, "virt-qemu-sev-validate is not installed");
    let broken = format!(
        "printf '#!/bin/sh\\nexit 1\\n' >bare/virt-qemu-sev-validate; chmod +x bare/*; \
         PATH=$PWD/bare '{}' start --attest vault",
        tool.display()
    );
    refused(&rig.shell(&broken), 6, "cannot run virt-qemu-sev-validate");
    stays_off();

    // A guest whose record is missing does not start unmeasured.
    fs::rename(rig.path(KEPT), rig.path("/var/lib/tdx/vms/away")).unwrap();
    refused(&td(rig, "start vault"), 4, "keys of domain 'vault' are not stored");
    fs::rename(rig.path("/var/lib/tdx/vms/away"), rig.path(KEPT)).unwrap();
    stays_off();

    // Other domains cannot be measured; the error says what to do instead.
    td::define(rig, &td::foreign("plain", ""));
    refused(&td(rig, "start --attest plain"), 5, "no launch security");
    refused(&td(rig, "show --attest plain"), 5, "no launch security");
    let td1 = "new -i guest.qcow2 --memory 256M --vcpus 1 --name td1";
    td(rig, td1).text();
    refused(&td(rig, "start --attest td1"), 5, "request a quote");
    assert_eq!(rig.virsh(["domstate", "plain"]), "shut off");
}
