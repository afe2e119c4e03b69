//! `tdx-td evidence` with a real guest agent. Stand-ins in the guest play configfs-tsm and the table CCEL: no TDX
//! hardware is involved, and the signatures of the quotes are not verified.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::fs;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::support::quote;
use crate::support::rig::{Rig, debian_image};
use crate::support::tools::Run;
use crate::support::vectors::vector;
use crate::support::wait::wait_for;

const REPORTS: &str = "/sys/kernel/config/tsm/report";

/// A file system in memory plays configfs. The programs mkdir and rmdir before those of the system create and remove
/// the files of a report directory, as the kernel does. A read of `outblob` begins after `$delay` seconds, counts
/// `$writes` writes, and returns a quote whose report data are in the file `$data`.
const STAND_IN: &str = r#"
set -e
mkdir -p /run/stand-in
modprobe configfs 2>/dev/null || :
[ -d /sys/kernel/config ] || mount -t tmpfs tmpfs /sys/kernel
mkdir -p /sys/kernel/config
mount -t tmpfs tmpfs /sys/kernel/config
mkdir -p /sys/kernel/config/tsm/report
mount -t tmpfs tmpfs /sys/firmware/acpi/tables
mkdir /sys/firmware/acpi/tables/data
head -c 1500000 /dev/urandom >/sys/firmware/acpi/tables/data/CCEL
cat >/usr/local/bin/mkdir <<'EOF'
#!/bin/sh
/bin/mkdir "$@" || exit
case $1 in /sys/kernel/config/tsm/report/*) ;; *) exit 0 ;; esac
cd "$1"
. /run/stand-in/mode
export delay writes data
echo "$provider" >provider
echo 0 >generation
: >inblob
mkfifo outblob
[ "$data" != none ] || { rm outblob; /bin/mkdir outblob; exit 0; }
setsid sh -c 'exec 3>outblob; sleep $delay; echo $writes >generation
    cat /run/stand-in/before $data /run/stand-in/after >&3' </dev/null >/dev/null 2>&1 &
EOF
cat >/usr/local/bin/rmdir <<'EOF'
#!/bin/sh
. /run/stand-in/mode
[ -z "$stuck" ] || { echo "rmdir: busy" >&2; exit 1; }
exec rm -r "$@"
EOF
chmod 755 /usr/local/bin/mkdir /usr/local/bin/rmdir
"#;

/// A guest with a real agent.
struct Guest {
    rig: Rig,
}

impl Guest {
    fn start() -> Self {
        let rig = Rig::start_for_booted_guests();
        rig.tool("tdx-pool", ["import".as_ref(), debian_image().as_os_str()]).document();
        let new = "tdx-td new -i debian.qcow2 --security none --virt-type qemu --memory 512M \
            --vcpus 2 --name vault --wait agent --timeout 280";
        rig.shell(new).document();
        Self { rig }
    }

    fn agent(&self, command: &str, arguments: Value) -> Value {
        let question = json!({"execute": command, "arguments": arguments}).to_string();
        let answer = self.rig.virsh(["qemu-agent-command", "vault", &question]);
        serde_json::from_str::<Value>(&answer).unwrap()["return"].clone()
    }

    /// Runs a script in the guest and returns its output.
    #[track_caller]
    fn shell(&self, script: &str, input: &[u8]) -> String {
        let started = self.agent(
            "guest-exec",
            json!({"path": "/bin/sh", "arg": ["-c", script], "input-data": STANDARD.encode(input),
                "capture-output": true}),
        );
        let pid = json!({"pid": started["pid"]});
        let ended = wait_for("the script in the guest", || {
            let status = self.agent("guest-exec-status", pid.clone());
            (status["exited"] == true).then_some(status)
        });
        let text = |key: &str| {
            let bytes = STANDARD.decode(ended[key].as_str().unwrap_or_default()).unwrap();
            String::from_utf8_lossy(&bytes).into_owned()
        };
        assert_eq!(ended["exitcode"], 0, "{script}: {}", text("err-data"));
        text("out-data").trim().to_owned()
    }

    /// Installs the stand-ins, which answer with a quote that has other report data.
    fn play_tdx(&self, quote: &[u8]) {
        self.shell(STAND_IN, b"");
        self.answer_with(quote);
        self.shell("head -c 64 /dev/zero >/run/stand-in/other", b"");
        self.set("");
    }

    fn answer_with(&self, quote: &[u8]) {
        let at = report_data_at(quote);
        self.shell("cat >/run/stand-in/before", &quote[..at]);
        self.shell("cat >/run/stand-in/after", &quote[at + 64..]);
    }

    /// Sets how the stand-in differs from a kernel that works.
    fn set(&self, difference: &str) {
        let works = "provider=tdx_guest delay=0 writes=1 data=inblob stuck=";
        self.shell("cat >/run/stand-in/mode", format!("{works}\n{difference}\n").as_bytes());
    }

    fn evidence(&self, more: &str) -> Run {
        self.rig.shell(&format!("tdx-td evidence vault --timeout 120 {more}"))
    }

    /// The names of the report directories in the guest.
    fn reports(&self) -> String {
        self.shell(&format!("ls {REPORTS}"), b"")
    }

    fn file(&self, name: &str) -> Vec<u8> {
        fs::read(self.rig.scratch().join(name)).unwrap()
    }
}

/// The offset of the report data in a quote of version 4 or 5.
fn report_data_at(quote: &[u8]) -> usize {
    if quote[0] == 5 { 54 + 520 } else { 48 + 520 }
}

/// A quote of version 4 that nobody signed.
fn made_quote() -> Vec<u8> {
    let body: Vec<u8> = (0..584).map(|at| at as u8).collect();
    quote::quote(4, &body)
}

/// Quotes of real trust domains; none on a machine without them.
fn real_quotes() -> Vec<Vec<u8>> {
    let files = ["spr-quote.bin", "v5-quote.bin", "cos113-quote.bin"];
    files.into_iter().filter_map(vector).map(|path| fs::read(path).unwrap()).collect()
}

/// One guest for all checks, because it takes half a minute to boot.
#[test]
#[ignore = "needs root"]
fn evidence_is_the_quote_for_the_nonce_and_the_event_log() {
    let guest = Guest::start();
    // The kernel of this guest has no configfs-tsm.
    let error = guest.evidence("--nonce 00 --out none").error(6);
    assert!(error["message"].as_str().unwrap().contains("no configfs-tsm"), "{error}");
    assert!(!guest.rig.scratch().join("none").exists());
    guest.play_tdx(&made_quote());

    let plan = guest.evidence("--nonce 0aFF --out out -n").document();
    assert_eq!((&plan["changed"], &plan["items"][0]["provider"]), (&true.into(), &Value::Null));
    assert!(!guest.rig.scratch().join("out").exists());

    let made = guest.evidence("--nonce 0aFF --out out");
    let item = made.item();
    let data = format!("0aff{}", "0".repeat(124));
    assert_eq!((&item["action"], &item["report_data"]), (&json!("create"), &json!(data)));
    let quote = guest.file("out/quote.bin");
    let mut expected = made_quote();
    expected[568..570].copy_from_slice(&[0x0a, 0xff]);
    expected[570..632].fill(0);
    assert_eq!(quote, expected);
    let path = guest.rig.scratch().join("out/quote.bin").display().to_string();
    assert_eq!(
        (&item["quote_path"], &item["quote_size_bytes"]),
        (&json!(path), &json!(quote.len()))
    );
    assert_eq!(item["ccel_size_bytes"], 1_500_000);
    let sum = guest.shell("sha256sum </sys/firmware/acpi/tables/data/CCEL", b"");
    assert_eq!(guest.rig.shell("sha256sum <out/ccel.bin").text().trim(), sum);

    // The same evidence again; another nonce; an item of the domain, and of another domain.
    assert_eq!(guest.evidence("--nonce 0aff --out out").document()["changed"], false);
    let error = guest.evidence("--nonce 0bff --out out").error(5);
    assert!(error["message"].as_str().unwrap().contains("out/quote.bin"), "{error}");
    let piped = "tdx-td list | tdx-td evidence - --nonce 0aff --out out --timeout 120";
    assert_eq!(guest.rig.shell(piped).document()["changed"], false);
    let other = piped.replace("list |", "list | sed 's/\"uuid\":\"..../\"uuid\":\"0000/' |");
    assert_eq!(guest.rig.shell(&other).error(5)["code"], "IDENTITY_CHANGED");
    assert_eq!(guest.reports(), "");

    for (index, quote) in real_quotes().iter().enumerate() {
        guest.answer_with(quote);
        guest.evidence(&format!("--nonce {} --out real{index}", "ab".repeat(64))).item();
        let mut expected = quote.clone();
        expected[report_data_at(quote)..][..64].fill(0xab);
        assert_eq!(guest.file(&format!("real{index}/quote.bin")), expected);
    }

    check_faults(&guest);
    check_kills(&guest);
    check_guests_without_an_agent(&guest);
}

/// What a broken or hostile guest can answer.
fn check_faults(guest: &Guest) {
    guest.answer_with(&made_quote());
    for (difference, status, reason) in [
        ("provider=sev_guest", 6, "provider 'sev_guest'"),
        ("writes=2", 5, "another process"),
        ("data=/run/stand-in/other", 1, "does not contain the nonce"),
        ("data=/dev/null", 1, "within the signature data"),
        ("data=none", 1, "got no quote"),
        ("data=/sys/firmware/acpi/tables/data/CCEL", 1, "more than 262144 bytes"),
    ] {
        guest.set(difference);
        let error = guest.evidence("--nonce 0aff --out fault").error(status);
        assert!(error["message"].as_str().unwrap().contains(reason), "{difference}: {error}");
        assert_eq!(error["left_behind"], json!([]), "{difference}: {error}");
        assert_eq!(guest.reports(), "", "{difference}");
        assert!(!guest.rig.scratch().join("fault").exists(), "{difference}");
    }
    guest.set("");
    let mut cut = made_quote();
    cut.pop();
    guest.answer_with(&cut);
    let error = guest.evidence("--nonce 0aff --out fault").error(1);
    assert!(error["message"].as_str().unwrap().contains("within the signature data"), "{error}");
    assert!(!guest.rig.scratch().join("fault").exists());
    guest.answer_with(&made_quote());
    guest.set("stuck=1");
    let error = guest.evidence("--nonce 0aff --out fault").error(1);
    assert!(error["left_behind"][0].as_str().unwrap().contains(REPORTS), "{error}");
    guest.shell(&format!("rm -r {REPORTS}/*"), b"");

    guest.set("");
    guest.shell("cd /sys/firmware/acpi/tables/data && mv CCEL kept", b"");
    let made = guest.evidence("--nonce 0aff --out bare").document();
    assert_eq!(made["items"][0]["ccel_path"], Value::Null);
    assert!(made["warnings"][0].as_str().unwrap().contains("CCEL"), "{made}");
    guest.shell("cd /sys/firmware/acpi/tables/data && head -c 9000000 /dev/zero >CCEL", b"");
    let error = guest.evidence("--nonce 0aff --out fault").error(1);
    assert!(error["message"].as_str().unwrap().contains("event log"), "{error}");
    guest.shell("cd /sys/firmware/acpi/tables/data && mv kept CCEL", b"");
}

/// A command that is killed, or whose time is up, while the kernel of the guest waits for the quote.
fn check_kills(guest: &Guest) {
    let line = "echo $$ >pid; exec tdx-td evidence vault --nonce 0aff --out killed --timeout";
    for (signal, status) in [("TERM", None), ("INT", None), ("KILL", None), ("0", Some(1))] {
        let (delay, seconds) = if signal == "0" { (45, 25) } else { (20, 120) };
        guest.set(&format!("delay={delay}"));
        std::thread::scope(|scope| {
            let run = scope.spawn(|| guest.rig.shell(&format!("{line} {seconds}")));
            wait_for("the report directory", || (!guest.reports().is_empty()).then_some(()));
            guest.rig.shell(&format!("kill -{signal} $(cat pid)")).text();
            let run = run.join().unwrap();
            assert_eq!(run.stdout, "", "{signal}: {run:#?}");
            if status.is_some() {
                let error = run.error(1);
                assert!(error["message"].as_str().unwrap().contains("within 25 s"), "{error}");
            } else {
                assert_ne!(run.status, Some(0), "{signal}: {run:#?}");
            }
        });
        std::thread::sleep(Duration::from_secs(1));
        wait_for("the guest to clean up", || guest.reports().is_empty().then_some(()));
        assert!(!guest.rig.scratch().join("killed").exists(), "{signal}");
    }
    guest.set("");
    guest.evidence("--nonce 0aff --out killed").item();
}

fn check_guests_without_an_agent(guest: &Guest) {
    // An agent that is configured as on Fedora.
    let block = "guest-exec,guest-exec-status,guest-file-open";
    let replace = format!(
        "systemctl stop qemu-guest-agent; exec qemu-ga -m virtio-serial \
         -p /dev/virtio-ports/org.qemu.guest_agent.0 -b {block}"
    );
    // Without waiting for the end: the agent could not answer any more.
    let script = format!("systemd-run sh -c '{replace}' 2>/dev/null");
    guest.agent("guest-exec", json!({"path": "/bin/sh", "arg": ["-c", script]}));
    wait_for("the agent that blocks commands", || {
        let run = guest.evidence("--nonce 00 --out off -n");
        (run.status == Some(6)).then(|| run.error(6))
    });
    let error = guest.evidence("--nonce 00 --out off").error(6);
    assert!(error["message"].as_str().unwrap().contains("guest-exec"), "{error}");
    assert!(error["hint"].as_str().unwrap().contains("/etc/sysconfig/qemu-ga"), "{error}");

    let refused = |status: i32, reason: &str| {
        let error = guest.evidence("--nonce 00 --out off").error(status);
        assert!(error["message"].as_str().unwrap().contains(reason), "{error}");
    };
    guest.rig.virsh(["suspend", "vault"]);
    refused(5, "is paused");
    guest.rig.virsh(["destroy", "vault"]);
    refused(5, "is shut off");
    // A guest that boots has no agent yet.
    guest.rig.virsh(["start", "vault"]);
    refused(5, "is not connected");
    guest.rig.tool("tdx-td", ["delete", "vault", "--yes", "--timeout", "0"]).document();
    refused(4, "not found");
    assert!(!guest.rig.scratch().join("off").exists());
}
