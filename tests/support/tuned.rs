//! A host made of files with settings that can be tuned.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::tree::Tree;

pub(crate) const THP: &str = "/sys/kernel/mm/transparent_hugepage/enabled";
pub(crate) const KSM: &str = "/sys/kernel/mm/ksm/run";
pub(crate) const MERGE: &str = "/sys/kernel/mm/ksm/merge_across_nodes";
pub(crate) const SHARED: &str = "/sys/kernel/mm/ksm/pages_shared";
pub(crate) const SWAPPINESS: &str = "/proc/sys/vm/swappiness";
pub(crate) const SCHEDULER: &str = "/sys/block/vda/queue/scheduler";
pub(crate) const PAGES: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages";
pub(crate) const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
pub(crate) const RECORD: &str = "/run/tdx/tuned/record";
pub(crate) const LASTING: &str = "/var/lib/tdx/tuned/record";

/// The processor flags, as the kernel prints them.
const FLAGS: &str = "flags\t\t: fpu sev sev_es svm\n";

/// A host before tuning: its pool is on `vda1`.
pub(crate) fn plain() -> Tree {
    filled(Tree::new())
}

/// Adds the files of such a host to an existing tree.
pub(crate) fn filled(tree: Tree) -> Tree {
    for (path, text) in [
        (THP, "always [madvise] never\n"),
        (KSM, "0\n"),
        (MERGE, "1\n"),
        (SHARED, "0\n"),
        (SWAPPINESS, "60\n"),
        (PAGES, "0\n"),
        (BOOT_ID, "0d6e3f0e-1f6c-4c4f-8b7a-2f6f3c6f9a11\n"),
        ("/proc/cpuinfo", FLAGS),
        ("/proc/cmdline", "BOOT_IMAGE=/vmlinuz root=/dev/vda1 ro mem_encrypt=off\n"),
        ("/sys/module/kvm_amd/refcnt", "0\n"),
        ("/sys/module/kvm_amd/parameters/sev", "N\n"),
        ("/sys/module/kvm_amd/parameters/sev_es", "N\n"),
        ("/proc/self/mountinfo", "22 1 254:1 / / rw,relatime - ext4 /dev/vda1 rw\n"),
        ("/etc/sysctl.d/99-sysctl.conf", "kernel.panic = 10\n"),
    ] {
        tree.file(path, text);
    }
    disk(&tree, "vda", 254, 1);
    disk(&tree, "vdb", 253, 0);
    tree.file("/sys/block/vda/serial", "disk-1\n");
    fs::create_dir_all(tree.path("/var/lib/libvirt/images")).unwrap();
    tree
}

/// A disk with partitions and a scheduler.
pub(crate) fn disk(tree: &Tree, name: &str, major: u32, parts: u32) {
    let folder = format!("/sys/devices/pci0000:00/0000:00:0{}.0/block/{name}", major % 10);
    let block = |folder: &str, name: &str, number: String| {
        tree.file(&format!("{folder}/dev"), format!("{number}\n"));
        tree.link(&format!("/sys/class/block/{name}"), folder);
        tree.link(&format!("/sys/dev/block/{number}"), folder);
    };
    block(&folder, name, format!("{major}:0"));
    tree.link(&format!("/sys/block/{name}"), &folder);
    tree.file(&format!("{folder}/queue/scheduler"), "[none] mq-deadline kyber bfq\n");
    for part in 1..=parts {
        let partition = format!("{folder}/{name}{part}");
        block(&partition, &format!("{name}{part}"), format!("{major}:{part}"));
        tree.file(&format!("{partition}/partition"), format!("{part}\n"));
    }
}

/// Files by path: the mode of each, and its content.
pub(crate) type Files = BTreeMap<PathBuf, (u32, Vec<u8>)>;

/// Every file with its mode and content, but not the directories, because `/run/tdx` stays.
pub(crate) fn files(root: &Path) -> Files {
    let mut found = BTreeMap::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap()) {
            let (path, kind) = (entry.path(), entry.file_type().unwrap());
            if kind.is_dir() {
                folders.push(path);
            } else if kind.is_file() {
                let mode = path.metadata().unwrap().permissions().mode();
                found.insert(path.clone(), (mode, fs::read(path).unwrap()));
            } else {
                let target = fs::read_link(&path).unwrap();
                found.insert(path, (0, target.into_os_string().into_encoded_bytes()));
            }
        }
    }
    found
}

/// The item of a setting.
#[track_caller]
pub(crate) fn item<'d>(document: &'d Value, setting: &str) -> &'d Value {
    let mut items = document["items"].as_array().unwrap().iter();
    items
        .find(|item| item["setting"] == setting)
        .unwrap_or_else(|| panic!("no {setting}: {document:#}"))
}

/// The content of a file, without its newline.
pub(crate) fn says(tree: &Tree, path: &str) -> String {
    fs::read_to_string(tree.path(path)).unwrap().trim_end().to_owned()
}
