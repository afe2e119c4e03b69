//! The libvirt objects, files, locks and emulators of a rig, one a line.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::HashMap;
use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{LazyLock, Mutex};

use common::text::hex;
use regex::Regex;
use sha2::{Digest, Sha256};
use virt::connect::Connect;
use virt::sys;
use walkdir::WalkDir;

use super::idle::{entries, processes};
use super::rig::Rig;

/// A line for each thing: its kind, its name, the rest.
pub(crate) fn lines(rig: &Rig) -> Vec<String> {
    let emulators = processes(rig).filter(|(name, _)| name.starts_with("qemu-"));
    let emulators = emulators.map(|(name, _)| format!("process {name}")).collect();
    [libvirt_objects(rig), files(rig), contents(rig), emulators].concat()
}

/// Domains with their states, definitions, disks and devices; pools; secrets.
fn libvirt_objects(rig: &Rig) -> Vec<String> {
    virt::error::clear_error_callback();
    let socket = rig.path("run/libvirt/libvirt-sock");
    let uri = format!("qemu+unix:///system?socket={}", socket.display());
    let libvirt = Connect::open(Some(&uri)).unwrap();
    let mut lines = Vec::new();
    for domain in libvirt.list_all_domains(0).unwrap() {
        let name = domain.name().unwrap();
        let (state, _) = domain.state().unwrap();
        lines.push(format!("domain {name} {}", STATES[state.to_raw() as usize]));
        let definition = domain.xml_desc(sys::VIR_DOMAIN_XML_INACTIVE).unwrap();
        lines.extend(block_disks(&definition, &format!("in the definition of {name}")));
        lines.extend(hostdevs(&definition, &name));
        lines.extend(definition_lines(&definition, &name));
        if domain.is_active().unwrap() {
            let guest = domain.xml_desc(0).unwrap();
            lines.extend(block_disks(&guest, &format!("in the guest {name}")));
        }
    }
    for pool in libvirt.list_all_storage_pools(0).unwrap() {
        let name = pool.name().unwrap();
        let state = if pool.is_active().unwrap() { "active" } else { "inactive" };
        lines.push(format!("pool {name} {state} autostart:{}", pool.autostart().unwrap()));
        lines.extend(definition_lines(&pool.xml_desc(0).unwrap(), &format!("pool {name}")));
    }
    for secret in libvirt.list_all_secrets(0).unwrap() {
        // usage_id() of virt 0.5 frees a string that it does not own.
        let definition = secret.xml_desc(0).unwrap();
        lines.push(format!("secret volume {}", between(&definition, "<volume>", '<')));
    }
    lines
}

/// The names of virDomainState, by number.
const STATES: [&str; 8] =
    ["no state", "running", "idle", "paused", "in shutdown", "shut off", "crashed", "pmsuspended"];

/// The lines of a definition without sizes and random values.
fn definition_lines<'a>(xml: &'a str, name: &'a str) -> impl Iterator<Item = String> + 'a {
    let varies = ["<uuid>", "<tdx:uuid>", "<mac ", "<capacity ", "<allocation ", "<available "];
    let lines = xml
        .lines()
        .map(str::trim_start)
        .filter(move |line| !varies.iter().any(|start| line.starts_with(start)));
    lines.map(move |line| match line.split_once(" uuid='") {
        Some((before, after)) => {
            format!("xml {name} {before}{}", &after[after.find('\'').unwrap() + 1..])
        }
        None => format!("xml {name} {line}"),
    })
}

/// The disks of a domain that are block devices.
fn block_disks(xml: &str, place: &str) -> Vec<String> {
    let disks = xml.split("<disk ").skip(1).filter(|disk| disk.starts_with("type='block'"));
    disks.map(|disk| format!("disk {} {place}", between(disk, "<target dev='", '\''))).collect()
}

/// The PCI devices of the host that a domain has.
fn hostdevs(xml: &str, name: &str) -> Vec<String> {
    let devices = xml.split("<hostdev ").skip(1);
    let numbers = devices.map(|device| {
        let address = &device[device.find("<address ").unwrap()..];
        ["domain='0x", "bus='0x", "slot='0x", "function='0x"]
            .map(|start| between(address, start, '\''))
    });
    numbers
        .map(|[domain, bus, slot, function]| {
            format!("hostdev {domain}:{bus}:{slot}.{function} of {name}")
        })
        .collect()
}

/// The text from `start` to the next `end`.
fn between<'a>(text: &'a str, start: &str, end: char) -> &'a str {
    let after = &text[text.find(start).unwrap() + start.len()..];
    &after[..after.find(end).unwrap()]
}

/// The files of domains and of the pool, the locks of the tools, the configuration of libvirt.
fn files(rig: &Rig) -> Vec<String> {
    let state = rig.path("var/lib/libvirt");
    let of_domains =
        ["nvram", "save", "snapshot", "channel", "dump"].map(|name| state.join("qemu").join(name));
    let of_domains = of_domains.iter().flat_map(|directory| tree(directory));
    let of_domains = of_domains.filter(|(_, status)| !status.is_dir());
    let of_libvirt = of_domains.chain(tree(&state.join("images"))).map(|(path, status)| {
        let path = without_number(&below(&path, &state));
        let rights = format!("{:o} {}:{}", status.mode(), status.uid(), status.gid());
        match status.is_dir() {
            true => format!("file {path}/ {rights}"),
            false => format!("file {path} {rights} {}", status.len()),
        }
    });
    let locks = ["run/lock/tdx", "run/tdx-pool"].map(|directory| tree(&rig.path(directory)));
    let locks = locks
        .into_iter()
        .flatten()
        .map(|(path, _)| format!("lock {}", path.file_name().unwrap().display()));
    let configuration = ["qemu", "storage"].map(|name| tree(&rig.path("etc/libvirt").join(name)));
    let configuration = configuration.into_iter().flatten().filter(|(_, status)| !status.is_dir());
    let configuration =
        configuration.map(|(path, _)| format!("config {}", below(&path, &rig.path(""))));
    of_libvirt.chain(locks).chain(configuration).collect()
}

/// A path relative to a directory above it.
fn below(path: &Path, directory: &Path) -> String {
    path.strip_prefix(directory).unwrap().display().to_string()
}

/// A path of a file of a domain, with `N` for libvirt's number of the running domain.
fn without_number(path: &str) -> String {
    static NUMBER: LazyLock<Regex> = LazyLock::new(|| Regex::new("domain-[0-9]+-").unwrap());
    NUMBER.replace(path, "domain-N-").into_owned()
}

/// The files and directories below a directory; none if it does not exist.
fn tree(directory: &Path) -> impl Iterator<Item = (PathBuf, Metadata)> + use<> {
    let entries = WalkDir::new(directory).min_depth(1).into_iter().flatten();
    entries.filter_map(|entry| Some((entry.path().to_owned(), entry.metadata().ok()?)))
}

/// The digests of the images in the pool and of the disks in the scratch directory. Overlays and seeds have other
/// contents in each run.
fn contents(rig: &Rig) -> Vec<String> {
    let state = rig.path("var/lib/libvirt");
    let varies = ["overlay.", "disk.", "cidata.", "import."];
    let images = tree(&state.join("images")).filter(|(path, status)| {
        let name = path.file_name().unwrap().to_string_lossy();
        status.is_file() && !varies.iter().any(|start| name.starts_with(start))
    });
    let disks =
        entries(rig.scratch()).filter(|path| path.extension().is_some_and(|end| end == "disk"));
    let disks = disks.filter_map(|path| Some((path.clone(), path.metadata().ok()?)));
    let files = images.chain(disks).filter_map(|(path, status)| {
        let place = path.strip_prefix(&state).unwrap_or(&path).display().to_string();
        Some(format!("content {place} {}", digest(&path, &status)?))
    });
    files.collect()
}

/// The SHA-256 of a file; none if the file is gone. A file that has not changed since its last reading is not read
/// again.
fn digest(path: &Path, status: &Metadata) -> Option<String> {
    type Version = (u64, u64, u64, i64, i64, i64, i64);
    static KNOWN: LazyLock<Mutex<HashMap<Version, String>>> = LazyLock::new(Mutex::default);
    let version = (
        status.dev(),
        status.ino(),
        status.len(),
        status.mtime(),
        status.mtime_nsec(),
        status.ctime(),
        status.ctime_nsec(),
    );
    if let Some(known) = KNOWN.lock().unwrap().get(&version) {
        return Some(known.clone());
    }
    let digest = hex(Sha256::digest(fs::read(path).ok()?));
    KNOWN.lock().unwrap().insert(version, digest.clone());
    Some(digest)
}
