//! AMD SEV guests run only if their launch measurement is right: on a libvirt that starts such guests (rig 3,
//! `tests/rig/sev-host`), with the distribution's validator. The measurements are computed as a processor's
//! firmware computes them, because the host has no such processor.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

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

mod keys;
mod refusal;
mod verdict;

const KEPT: &str = "/var/lib/tdx/vms/vault";
const QMP: &str = "/run/rig/host/sev";
/// The firmware that libvirt chooses for such guests here.
const FIRMWARE: &str = "/usr/share/OVMF/OVMF_CODE_4M.ms.fd";
const TIK: [u8; 16] = *b"integrity key 16";

/// The values with which a processor's firmware launches a guest, and which it signs.
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

    /// The signature of a message, followed by the nonce that ends the message.
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

/// A host with AMD SEV, an image in its pool, and a session whose keys the test has.
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

    /// Sets the processor's answer for a guest that was launched with these values.
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

    /// The verdict of virt-qemu-sev-validate, which asks libvirt itself.
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

/// Shuts off the guest.
fn off(host: &Host) {
    td(&host.rig, "stop vault --force").document();
}

#[track_caller]
fn refused(run: &Run, status: i32, says: &str) -> Value {
    let error = run.error(status);
    assert!(error.to_string().contains(says), "{says:?} is not in {error}");
    error
}

/// Joins words with single spaces, for command lines that are wrapped here.
trait Line {
    fn concat_words(&self) -> String;
}

impl Line for Vec<&str> {
    fn concat_words(&self) -> String {
        self.iter().filter(|word| !word.is_empty()).copied().collect::<Vec<_>>().join(" ")
    }
}
