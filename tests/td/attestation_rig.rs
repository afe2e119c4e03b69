//! AMD SEV guests run only when their launch measured right: a libvirt that starts such guests (rig 3,
//! `tests/rig/sev-host`), the distribution's validator, and measurements made as a processor's firmware
//! makes them, since there is none.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::support::firmware::{PLAIN, Request, compare};
use crate::support::odd_firmware::OddDirectories;
use crate::support::rig::{Rig, guest_image};
use crate::support::td::{self, IMAGES, td, words};
use crate::support::tools::{self, Run, on_path, repository};
use crate::support::wait::wait_for;

const KEPT: &str = "/var/lib/tdx/vms/vault";
const QMP: &str = "/run/rig/host/sev";
/// What libvirt chooses for such guests here.
const FIRMWARE: &str = "/usr/share/OVMF/OVMF_CODE_4M.ms.fd";
const TIK: [u8; 16] = *b"integrity key 16";

/// What a processor's firmware launches a guest with, and signs.
///
/// Source: AMD Secure Encrypted Virtualization API (55766), 6.5.1.
#[derive(Debug, Clone)]
struct Launch {
    tik: [u8; 16],
    api: (u8, u8),
    build: u8,
    policy: u32,
    digest: [u8; 32],
}

impl Launch {
    fn sign(&self) -> String {
        let nonce = [7; 16];
        let versions = [4, self.api.0, self.api.1, self.build];
        let policy = self.policy.to_le_bytes();
        self.sign_message(&[&versions[..], &policy, &self.digest, &nonce].concat())
    }

    /// The signature of a message, with the nonce it ends with.
    fn sign_message(&self, message: &[u8]) -> String {
        let signed = [&hmac(&self.tik, message)[..], &message[message.len() - 16..]].concat();
        BASE64.encode(signed)
    }
}

/// Source: RFC 2104, for keys no longer than a block.
fn hmac(key: &[u8], message: &[u8]) -> [u8; 32] {
    let padded = |with: u8| -> Vec<u8> {
        (0..64).map(|at| key.get(at).copied().unwrap_or(0) ^ with).collect()
    };
    let inner = Sha256::digest([&padded(0x36), message].concat());
    Sha256::digest([&padded(0x5c), &inner[..]].concat()).into()
}

/// The stand-in for the firmware signs as real firmware does.
///
/// Source: sevctl, tests/measurementbuild.rs: key, digest and nonce with the measurement they make.
#[test]
fn measurements_are_made_as_published() {
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

/// Rig 3 as a host with AMD SEV.
fn sev_rig() -> Rig {
    let rig = Rig::start_tdx();
    let shim = rig.scratch().join("sev-shim.so");
    let mut gcc = on_path("gcc");
    gcc.args(["-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-o"]);
    gcc.arg(&shim).arg(repository().join("tests/rig/sev-shim.c"));
    Run::of(gcc, b"").text();
    let mut dress = rig.command(repository().join("tests/rig/sev-host"));
    dress.arg(&shim);
    Run::of(dress, b"").text();
    rig
}

/// A host with AMD SEV, an image in its pool, and a session whose keys are here.
struct Host {
    rig: Rig,
}

impl Host {
    fn start() -> Self {
        let rig = sev_rig();
        rig.tool("tdx-pool", ["import".as_ref(), guest_image(false).as_os_str()]).document();
        for (file, content) in [
            ("tik.bin", &TIK[..]),
            ("tek.bin", b"encryption key 1"),
            ("other.bin", b"another key of16"),
            ("session", b"c2Vzc2lvbg=="),
            ("cert", b"Y2VydA=="),
        ] {
            fs::write(rig.scratch().join(file), content).unwrap();
        }
        let host = Self { rig };
        host.report(&Launch {
            tik: TIK,
            api: (1, 51),
            build: 3,
            policy: 3,
            digest: Sha256::digest(host.firmware()).into(),
        });
        host
    }

    fn firmware(&self) -> Vec<u8> {
        fs::read(self.rig.path(FIRMWARE)).unwrap()
    }

    fn good(&self) -> Launch {
        let digest = Sha256::digest(self.firmware()).into();
        Launch { tik: TIK, api: (1, 51), build: 3, policy: 3, digest }
    }

    /// Has the processor answer for a guest that was launched like this.
    fn report(&self, launch: &Launch) {
        self.report_as(launch, &launch.sign());
    }

    fn report_as(&self, launch: &Launch, measurement: &str) {
        let info = json!({
            "enabled": true, "api-major": launch.api.0, "api-minor": launch.api.1,
            "build-id": launch.build, "policy": launch.policy, "state": "launch-secret",
            "handle": 1, "sev-type": "sev",
        });
        let write = |command: &str, value: &Value| {
            let path = self.rig.path(&format!("{QMP}/{command}"));
            fs::write(path, format!("{value}\n")).unwrap();
        };
        write("query-sev", &info);
        write("query-sev-launch-measure", &json!({ "data": measurement }));
    }

    fn create(&self, more: &str) -> Run {
        td(
            &self.rig,
            &format!(
                "new -i guest.qcow2 --memory 256M --vcpus 1 --name vault --security sev \
                 --sev-dh-cert cert --sev-session session --sev-tik tik.bin --sev-tek tek.bin{more}"
            )
            .split_whitespace()
            .collect::<Vec<_>>()
            .join(" "),
        )
    }

    fn state(&self) -> String {
        self.rig.virsh(["domstate", "vault"])
    }

    fn emulators(&self) -> String {
        self.rig.shell("cat /proc/[0-9]*/comm | grep -c ^qemu || true").text().trim().to_owned()
    }

    /// The verdict of the reference, which asks libvirt itself.
    fn reference(&self) -> Run {
        self.rig.shell(&format!(
            "PATH=/usr/bin:/bin virt-qemu-sev-validate --debug --insecure --domain vault --policy 3 \
             --firmware {FIRMWARE} --tik {KEPT}/tik.bin --tek {KEPT}/tek.bin"
        ))
    }

    fn attested(&self) -> Value {
        td(&self.rig, "show --attest vault").item()["attested"].clone()
    }
}

/// The tools as on a system: programs are the rig's own.
fn off(host: &Host) {
    td(&host.rig, "stop vault --force").document();
}

#[track_caller]
fn refused(run: &Run, status: i32, says: &str) -> Value {
    let error = run.error(status);
    assert!(error.to_string().contains(says), "{says:?} is not in {error}");
    error
}

/// The firmware of a guest that AMD SEV protects is the one that we say it gets.
#[test]
#[ignore = "needs root"]
fn the_firmware_of_a_sev_guest_is_the_one_that_libvirt_gives() {
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
fn a_guest_runs_when_it_measures_right_and_is_ended_when_not() {
    let host = Host::start();
    let before = host.rig.state();
    let bad = Launch { digest: [1; 32], ..host.good() };

    // Nothing is left of one that was never right.
    host.report(&bad);
    let error = refused(&host.create(""), 1, "is not what was to be launched");
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

    // Started again, by whatever words.
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

    // One that runs and measures wrong is told of, not touched.
    host.report(&bad);
    assert_eq!(host.attested(), false);
    refused(&td(&host.rig, "start --attest vault"), 1, "NOT_ATTESTED");
    assert_eq!(host.state(), "running");
    off(&host);
    for line in ["start vault", "start --attest vault"] {
        refused(&td(&host.rig, line), 1, "NOT_ATTESTED");
        assert_eq!((host.state().as_str(), host.emulators().as_str()), ("shut off", "0"));
    }

    // What a command that was killed has left paused is measured, whoever finds it.
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
fn the_verdict_is_the_references() {
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
    // What is no measurement at all is not judged.
    host.report_as(&good, "AAA");
    let reference = host.reference();
    assert!(!matches!(reference.status, Some(0 | 1)), "{reference:#?}");
    refused(&td(&host.rig, "show --attest vault"), 1, "virt-qemu-sev-validate");
}

/// The registers of a guest's processors are measured with it: what the reference makes of them, from
/// what libvirt tells it, is signed and shown to the tools.
#[test]
#[ignore = "needs root"]
fn registers_are_measured_too_where_they_are_encrypted() {
    let host = Host::start();
    let good = Launch { policy: 7, ..host.good() };
    host.report(&good);
    let line = "new -i guest.qcow2 --memory 256M --vcpus 2 --name vault --security sev-es \
        --sev-dh-cert cert --sev-session session --sev-tik tik.bin --sev-tek tek.bin";
    refused(&td(&host.rig, &words(line).concat_words()), 1, "NOT_ATTESTED");

    // A copy of the domain that nobody keeps keys of, for the reference to look at.
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

    // The registers of another processor than the host's are not known.
    let xml = host.rig.virsh(["dumpxml", "--inactive", "--security-info", "vault"]);
    td::define(&host.rig, &xml.replace("mode='host-passthrough'", "mode='maximum'"));
    refused(&td(&host.rig, "start vault"), 6, "host-passthrough");
    assert_eq!(host.state(), "shut off");
}

#[test]
#[ignore = "needs root"]
fn a_signal_never_leaves_a_guest_paused() {
    let host = Host::start();
    host.create("").item();
    off(&host);
    // The validator works here until its file is removed, so that there is time to be stopped.
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
        // A shell has its background ignore SIGINT.
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

    // What kills `new` leaves is found by its name.
    td(&host.rig, "delete vault --yes --timeout 0").item();
    let before = host.rig.state();
    for after in [30, 60, 90, 150, 250, 400] {
        let new = "tdx-td new -i guest.qcow2 --memory 256M --vcpus 1 --name vault --security sev \
            --sev-dh-cert cert --sev-session session --sev-tik tik.bin --sev-tek tek.bin";
        host.rig.shell(&format!("timeout -s KILL 0.{after:03} {new}"));
        wait_for("libvirtd idle", Duration::from_secs(20), || {
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
fn what_is_missing_or_wrong_is_told_before_anything_starts() {
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
    refused(&td(rig, snp), 2, "while it runs");
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
    refused(&start(), 5, "others can get at the keys");
    fs::remove_file(&tik).unwrap();
    refused(&start(), 4, "tik.bin");
    refused(&td(rig, "start vault"), 4, "tik.bin");
    refused(&dry(), 4, "tik.bin");
    fs::write(&tik, TIK).unwrap();
    fs::set_permissions(&tik, PermissionsExt::from_mode(0o600)).unwrap();
    stays_off();

    let xml = rig.virsh(["dumpxml", "--inactive", "--security-info", "vault"]);
    // The same without libvirt choosing the firmware.
    let (head, rest) = xml.split_once("<firmware>").unwrap();
    let rest = rest.split_once("</firmware>").unwrap().1;
    let manual = format!("{}{rest}", head.replace(" firmware='efi'", ""));
    for (from, to, says) in [
        ("<policy>0x0003</policy>", "<policy>0x0001</policy>", "another policy than 0x3"),
        ("c2Vzc2lvbg==", "b3RoZXI=", "the session of domain 'vault'"),
        ("Y2VydA==", "b3RoZXI=", "the dhCert of domain 'vault'"),
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
    refused(&rig.shell(&broken), 6, "virt-qemu-sev-validate does not work");
    stays_off();

    // A record that went is not a reason to run unmeasured.
    fs::rename(rig.path(KEPT), rig.path("/var/lib/tdx/vms/away")).unwrap();
    refused(&td(rig, "start vault"), 4, "no keys of domain 'vault'");
    fs::rename(rig.path("/var/lib/tdx/vms/away"), rig.path(KEPT)).unwrap();
    stays_off();

    // Of others there is nothing to measure, and what to do instead is said.
    td::define(rig, &td::foreign("plain", ""));
    refused(&td(rig, "start --attest plain"), 5, "no launch security");
    refused(&td(rig, "show --attest plain"), 5, "no launch security");
    let td1 = "new -i guest.qcow2 --memory 256M --vcpus 1 --name td1";
    td(rig, td1).text();
    refused(&td(rig, "start --attest td1"), 5, "asks for a quote");
    assert_eq!(rig.virsh(["domstate", "plain"]), "shut off");
}

#[test]
#[ignore = "needs root"]
fn two_commands_and_a_new_name_lose_no_keys() {
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

    // Under another name its keys are not found, and those there are nobody else's.
    off(&host);
    rig.virsh(["domrename", "vault", "other"]);
    refused(&td(rig, "start other"), 4, "no keys of domain 'other'");
    refused(&rig.shell(&format!("{new} vault")), 5, "a domain that is there");
    assert_eq!(td(rig, "delete vault --yes").item()["action"], "none");
    rig.virsh(["domrename", "other", "vault"]);
    td(rig, "start vault").text();
    assert_eq!(host.attested(), true);

    // One that takes its place brings its own.
    let anew = rig.shell(&format!("{new} vault --hotplug-ports 4 --overwrite --yes"));
    anew.text();
    assert_eq!(host.attested(), true);
}

/// Whoever judges from elsewhere, or as an ordinary user, has the keys and the firmware himself.
#[test]
#[ignore = "needs root"]
fn a_guest_of_a_remote_host_is_judged_from_here() {
    let host = Host::start();
    let rig = &host.rig;
    let before = rig.state();
    let far = |line: &str| td(rig, &format!("-c qemu+tcp://127.0.0.1/system {line}"));
    let new = "new -i guest.qcow2 --memory 256M --vcpus 1 --name vault --security sev \
        --sev-dh-cert cert --sev-session session --sev-tik tik.bin --sev-tek tek.bin";
    refused(&far(new), 2, "--sev-firmware names a copy");
    assert_eq!(rig.state(), before);
    let made = far(&format!("{new} --sev-firmware {FIRMWARE}")).item();
    assert_eq!(made["state"], "running");
    off(&host);
    // The host's own file is not looked at any more.
    let started = far("start --attest vault").document();
    assert!(!started["warnings"].to_string().contains("--sev-firmware"), "{started}");
    assert_eq!(far("show --attest vault").item()["attested"], true);
    let record = fs::read_to_string(rig.path(KEPT).join("config.yaml")).unwrap();
    assert!(record.contains("host: qemu+tcp://127.0.0.1/system\n"), "{record}");

    // An ordinary user has a folder of his own, and nothing of root's.
    fs::copy(tools::bin("tdx-td"), rig.scratch().join("tdx-td")).unwrap();
    let user = |line: &str| {
        rig.shell(&format!(
            "setpriv --reuid 65534 --regid libvirt --clear-groups \
             env HOME=$PWD/home ./tdx-td -c qemu:///system {line}"
        ))
    };
    refused(&user("show --attest vault"), 4, "no keys of domain 'vault'");
    let folder = "home/.local/state/tdx/vms";
    rig.shell(&format!("mkdir -p {folder} && cp -r {KEPT} {folder}/ && chown -R 65534 home"))
        .text();
    assert_eq!(user("show --attest vault").item()["attested"], true);
    far("delete vault --yes --timeout 0").item();
    assert!(!rig.path(KEPT).exists());
    assert_eq!(rig.state(), before);
}

/// A session made for a host by sevctl, which stands in here: Debian has none, and it needs a processor's
/// certificates.
#[test]
#[ignore = "needs root"]
fn a_session_is_made_for_the_hosts_certificates() {
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
    refused(&new(""), 2, "its certificate chain is missing");
    refused(&new("--host bare"), 2, "its certificate chain is missing");
    refused(&new("--sev-cert absent"), 4, "absent");
    refused(&new("--sev-cert forged"), 1, "no chain");
    assert_eq!(rig.state(), before);
    assert!(!rig.path(KEPT).exists());

    for more in ["--sev-cert chain", "--host here", "--sev-export-cert"] {
        let run = new(more);
        let document: Value = serde_json::from_str(run.text()).unwrap();
        assert_eq!(document["items"][0]["state"], "running", "{more}");
        let demo = document["warnings"].to_string().contains("for a demonstration only");
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

/// Words put together again with single spaces, for lines that are wrapped here.
trait Line {
    fn concat_words(&self) -> String;
}

impl Line for Vec<&str> {
    fn concat_words(&self) -> String {
        self.iter().filter(|word| !word.is_empty()).copied().collect::<Vec<_>>().join(" ")
    }
}
