//! Images, domains and directories for the tests of `tdx-pool`.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]
#![expect(clippy::disallowed_methods, reason = "tests start programs as users do")]

use std::fs;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::rig::Rig;
use super::tools::{Run, bin};

/// The pool's directory inside a rig.
pub(crate) const IMAGES: &str = "/var/lib/libvirt/images";

/// Writes a raw disk that the tools accept: a boot signature and bytes that depend on `seed`.
pub(crate) fn raw_image(path: impl AsRef<Path>, bytes: usize, seed: u64) {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut block = Vec::with_capacity(BLOCK);
    while block.len() < BLOCK.min(bytes) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        block.extend(state.to_le_bytes());
    }
    block[510..512].copy_from_slice(b"\x55\xaa");
    let mut file = fs::File::create(path).unwrap();
    for number in 0..bytes / block.len() {
        block[..8].copy_from_slice(&number.to_le_bytes());
        file.write_all(&block).unwrap();
    }
}

/// The number of random bytes of an image; the rest repeats them.
const BLOCK: usize = 1 << 20;

/// The name of an overlay, as the tools make them.
pub(crate) fn overlay(number: usize) -> String {
    format!("overlay.{number:015}.qcow2")
}

impl Rig {
    /// Runs `tdx-pool` with its arguments in one line.
    pub(crate) fn pool(&self, line: &str) -> Run {
        self.tool("tdx-pool", line.split_whitespace())
    }

    /// Creates a 1 MiB image that depends on `seed` in the scratch directory. Returns its path.
    pub(crate) fn image(&self, name: &str, seed: u64) -> String {
        let path = self.scratch().join(name);
        raw_image(&path, 1 << 20, seed);
        path.to_str().unwrap().to_owned()
    }

    /// An empty qcow2 image at a path inside the rig, over `backing` if one is named.
    #[track_caller]
    pub(crate) fn qcow2(&self, path: &str, backing: Option<(&str, &str)>) {
        let backing = backing.map(|(file, format)| format!("-b '{file}' -F {format}"));
        let backing = backing.unwrap_or_default();
        let size = if backing.is_empty() { "1M" } else { "" };
        self.shell(&format!("qemu-img create -q -f qcow2 {backing} '{path}' {size}")).text();
    }

    /// Defines a domain with these disks (`<source …/>` elements), all qcow2.
    #[track_caller]
    pub(crate) fn define(&self, name: &str, sources: &[String]) {
        let disks: String = sources
            .iter()
            .enumerate()
            .map(|(index, source)| {
                let kind = if source.contains("pool=") { "volume" } else { "file" };
                let letter = char::from(b'a' + u8::try_from(index).unwrap());
                format!(
                    "<disk type='{kind}' device='disk'><driver name='qemu' type='qcow2'/>{source}\
                     <target dev='vd{letter}' bus='virtio'/></disk>"
                )
            })
            .collect();
        self.define_xml(name, &disks, "");
    }

    /// Defines a domain with these devices and elements of the domain. A domain of the same name keeps its
    /// UUID.
    #[track_caller]
    pub(crate) fn define_xml(&self, name: &str, devices: &str, more: &str) {
        let uuid = self.shell(&format!("virsh domuuid {name} 2>/dev/null || true"));
        let uuid = uuid.text().trim();
        let uuid = if uuid.is_empty() { String::new() } else { format!("<uuid>{uuid}</uuid>") };
        let xml = format!(
            "<domain type='qemu' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>\
             <name>{name}</name>{uuid}<memory unit='MiB'>16</memory>\
             <os><type arch='x86_64' machine='q35'>hvm</type></os>\
             <devices>{devices}</devices>{more}</domain>"
        );
        let path = self.scratch().join(format!("{name}.xml"));
        fs::write(&path, xml).unwrap();
        self.virsh(["define", path.to_str().unwrap()]);
    }

    /// Every entry of a directory inside the rig: kind, mode, owner, size, time of change.
    pub(crate) fn listing(&self, folder: &str) -> String {
        let script = format!(
            "cd {folder} && find . -mindepth 1 -printf '%P %y %m %U:%G %s %T@\\n' | sort && \
             find . -type f -exec sha256sum {{}} + | sort"
        );
        self.shell(&script).text().to_owned()
    }

    /// The names in the pool's directory.
    pub(crate) fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(self.path(IMAGES))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }

    /// Owner, group and mode of a file in the pool's directory.
    pub(crate) fn owner(&self, name: &str) -> (u32, u32, u32) {
        let metadata = fs::metadata(self.path(IMAGES).join(name)).unwrap();
        (metadata.uid(), metadata.gid(), metadata.mode() & 0o7777)
    }

    /// The group that QEMU runs as in the rig.
    pub(crate) fn qemu_group(&self) -> u32 {
        let capabilities = self.virsh(["capabilities"]);
        let label = capabilities.split("<baselabel type='kvm'>+").nth(1).unwrap();
        label.split(['+', '<']).nth(1).unwrap().parse().unwrap()
    }

    /// Starts `tdx-pool` inside the rig, without waiting for it.
    pub(crate) fn begin(&self, arguments: &[&str]) -> Begun {
        let mut command = self.command(bin("tdx-pool"));
        command.args(arguments).stdin(Stdio::null());
        Begun::new(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap())
    }

    /// Waits until the import has begun to write, stops it there, and returns the name of its file.
    pub(crate) fn halt(&self, import: &Begun) -> String {
        let end = Instant::now() + Duration::from_secs(20);
        loop {
            let part = self.names().into_iter().find(|name| name.ends_with(".part"));
            match part {
                Some(part) => {
                    signal(import, "STOP");
                    return part;
                }
                None => assert!(Instant::now() < end, "no half-made image was seen"),
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// A program that [`Rig::begin`] started, below nsenter. The program is killed when this value is dropped,
/// because a rig with a stopped program does not end.
#[derive(Debug)]
pub(crate) struct Begun(Option<Child>);

impl Begun {
    pub(crate) fn new(nsenter: Child) -> Self {
        Self(Some(nsenter))
    }

    /// Waits for the end of the program. A stopped program continues: nsenter stops and continues with it.
    pub(crate) fn output(mut self) -> Output {
        while self.0.as_mut().unwrap().try_wait().unwrap().is_none() {
            send("CONT", &self.id().to_string());
            std::thread::sleep(Duration::from_millis(50));
        }
        self.0.take().unwrap().wait_with_output().unwrap()
    }

    /// The process of nsenter, whose only child is the program.
    fn id(&self) -> u32 {
        self.0.as_ref().unwrap().id()
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            child.kill().ok();
            child.wait().ok();
        }
    }
}

/// Sends a signal to a program that [`Rig::begin`] started.
pub(crate) fn signal(begun: &Begun, signal: &str) {
    let id = begun.id();
    let children = fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap();
    send(signal, children.trim());
}

fn send(signal: &str, process: &str) {
    // The shell's own kill, because kill(1) is a package that a small machine lacks.
    let killed = Command::new("sh").args(["-c", "kill -$0 $1", signal, process]).status();
    assert!(killed.unwrap().success());
}

/// The run of a program that [`Rig::begin`] started, and its status; none if a signal ended it.
pub(crate) fn end(begun: Begun) -> (Run, Option<i32>) {
    let output = begun.output();
    let run = Run {
        line: "tdx-pool".to_owned(),
        status: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    };
    (run, output.status.signal())
}

/// The items' values under `key`.
pub(crate) fn values(document: &Value, key: &str) -> Vec<String> {
    let items = document["items"].as_array().unwrap().iter();
    items.map(|item| item[key].as_str().unwrap_or("null").to_owned()).collect()
}

/// The item of this name.
#[track_caller]
pub(crate) fn named<'a>(document: &'a Value, name: &str) -> &'a Value {
    let mut items = document["items"].as_array().unwrap().iter();
    items.find(|item| item["name"] == name).unwrap_or_else(|| panic!("no {name}: {document:#}"))
}
