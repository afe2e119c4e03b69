//! The keys of guests, their owners and hosts.

use super::*;

#[test]
#[ignore = "needs root"]
fn keys_survive_two_simultaneous_commands_and_a_rename_of_the_domain() {
    let host = Host::start();
    let rig = &host.rig;
    let new = "tdx-td new -i guest.qcow2 --memory 256M --vcpus 1 --security sev --sev-dh-cert cert \
        --sev-session session --sev-tik tik.bin --sev-tek tek.bin --name";
    let both = rig.shell(&format!(
        "{new} vault >one 2>&1 & {new} vault >two 2>&1; two=$?; wait $!; echo $? $two"
    ));
    let mut codes = words(both.stdout.trim());
    codes.sort();
    assert!(matches!(codes[..], ["0", "0" | "5"]), "{both:#?}");
    assert_eq!(host.attested(), true);

    // Under the new name the domain has no keys, and the stored keys belong to no other domain.
    off(&host);
    rig.virsh(["domrename", "vault", "other"]);
    refused(&td(rig, "start other"), 4, "keys of domain 'other' are not stored");
    refused(&rig.shell(&format!("{new} vault")), 5, "an existing domain");
    assert_eq!(td(rig, "delete vault --yes").item()["action"], "none");
    rig.virsh(["domrename", "other", "vault"]);
    td(rig, "start vault").text();
    assert_eq!(host.attested(), true);

    // A domain that replaces the former one has its own keys.
    let anew = rig.shell(&format!("{new} vault --hotplug-ports 4 --overwrite --yes"));
    anew.text();
    assert_eq!(host.attested(), true);
}

/// A user on another host, or an ordinary user, needs the keys and the firmware locally.
#[test]
#[ignore = "needs root"]
fn a_guest_of_a_remote_host_is_measured_with_local_keys_and_firmware() {
    let host = Host::start();
    let rig = &host.rig;
    let before = rig.state();
    let far = |line: &str| td(rig, &format!("-c qemu+tcp://127.0.0.1/system {line}"));
    let new = "new -i guest.qcow2 --memory 256M --vcpus 1 --name vault --security sev \
        --sev-dh-cert cert --sev-session session --sev-tik tik.bin --sev-tek tek.bin";
    refused(&far(new), 2, "add --sev-firmware FILE");
    assert_eq!(rig.state(), before);
    let made = far(&format!("{new} --sev-firmware {FIRMWARE}")).item();
    assert_eq!(made["state"], "running");
    off(&host);
    // The firmware file of the host is not read any more.
    let started = far("start --attest vault").document();
    assert!(!started["warnings"].to_string().contains("--sev-firmware"), "{started}");
    assert_eq!(far("show --attest vault").item()["attested"], true);
    let record = fs::read_to_string(rig.path(KEPT).join("config.yaml")).unwrap();
    assert!(record.contains("host: qemu+tcp://127.0.0.1/system\n"), "{record}");

    // An ordinary user has a directory of his own, and does not read root's.
    fs::copy(tools::bin("tdx-td"), rig.scratch().join("tdx-td")).unwrap();
    let user = |line: &str| {
        rig.shell(&format!(
            "setpriv --reuid 65534 --regid libvirt --clear-groups \
             env HOME=$PWD/home ./tdx-td -c qemu:///system {line}"
        ))
    };
    refused(&user("show --attest vault"), 4, "keys of domain 'vault' are not stored");
    let folder = "home/.local/state/tdx/vms";
    rig.shell(&format!("mkdir -p {folder} && cp -r {KEPT} {folder}/ && chown -R 65534 home"))
        .text();
    assert_eq!(user("show --attest vault").item()["attested"], true);
    far("delete vault --yes --timeout 0").item();
    assert!(!rig.path(KEPT).exists());
    assert_eq!(rig.state(), before);
}

/// The program sevctl makes a session for a host. A stand-in replaces it, because Debian lacks it and it
/// needs a processor's certificates.
#[test]
#[ignore = "needs root"]
fn new_creates_a_session_for_the_certificates_of_the_host() {
    let host = Host::start();
    let rig = &host.rig;
    let sevctl = r#"#!/bin/sh
        echo "$@" >>sevctl.log
        case $1 in
        verify) grep -q chain "$3" || { echo 'no chain' >&2; exit 1; } ;;
        export) echo chain >"$3" ;;
        session)
            printf 'integrity key 16' >"$3_tik.bin"; printf 'encryption key 1' >"$3_tek.bin"
            printf bWFkZSBjZXJ0 >"$3_godh.b64"; printf bWFkZSBzZXNzaW9u >"$3_session.b64" ;;
        esac
        "#;
    let path = rig.path("/usr/local/bin/sevctl");
    fs::write(&path, sevctl).unwrap();
    fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
    fs::write(rig.scratch().join("chain"), "chain").unwrap();
    fs::write(rig.scratch().join("forged"), "x").unwrap();
    let hosts = "here: {uri: 'qemu:///system', sev-cert: chain}\nbare: {uri: 'qemu:///system'}\n";
    fs::write(rig.scratch().join("hosts.yaml"), hosts).unwrap();
    let before = rig.state();
    let new = |more: &str| {
        rig.shell(&format!(
            "TDX_HOSTS=hosts.yaml tdx-td new -i guest.qcow2 --memory 256M --vcpus 1 --name vault \
             --security sev --sev-attest {more}"
        ))
    };
    refused(&new(""), 2, "needs the certificate chain of the host");
    refused(&new("--host bare"), 2, "needs the certificate chain of the host");
    refused(&new("--sev-cert absent"), 4, "absent");
    refused(&new("--sev-cert forged"), 1, "no chain");
    assert_eq!(rig.state(), before);
    assert!(!rig.path(KEPT).exists());

    for more in ["--sev-cert chain", "--host here", "--sev-export-cert"] {
        let run = new(more);
        let document: Value = serde_json::from_str(run.text()).unwrap();
        assert_eq!(document["items"][0]["state"], "running", "{more}");
        let demo = document["warnings"].to_string().contains("only for demonstrations");
        assert_eq!(demo, more == "--sev-export-cert", "{document}");
        let xml = rig.virsh(["dumpxml", "--security-info", "vault"]);
        for part in ["<dhCert>bWFkZSBjZXJ0</dhCert>", "<session>bWFkZSBzZXNzaW9u</session>"] {
            assert!(xml.contains(part), "{xml}");
        }
        assert_eq!(host.attested(), true);
        let again: Value = serde_json::from_str(new(more).text()).unwrap();
        assert_eq!(again["changed"], false, "{more}");
        let files = rig.shell(&format!("ls {KEPT} | tr '\\n' ' '"));
        assert_eq!(files.text(), "config.yaml domain.xml godh.b64 session.b64 tek.bin tik.bin ");
        td(rig, "delete vault --yes --timeout 0").item();
    }
    let log = fs::read_to_string(rig.scratch().join("sevctl.log")).unwrap();
    assert!(log.contains(&format!("session --name {KEPT}/made chain 3\n")), "{log}");
    assert_eq!(rig.state(), before);
    assert!(rig.path(IMAGES).join("guest.qcow2").exists());
}
