//! Machines made of files, for `--sysroot`: sysfs and procfs in the kernel's layout.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::tools::{Run, tool, tool_command, tool_with_input};

/// A machine below a temporary directory.
#[derive(Debug)]
pub(crate) struct Tree {
    root: tempfile::TempDir,
    /// The directory of each device.
    devices: BTreeMap<String, PathBuf>,
}

/// A PCI device to create. `ids` are `vendor:device`, optionally followed by `:vendor:device` of the card.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Spec<'a> {
    pub(crate) ids: &'a str,
    pub(crate) class: &'a str,
    pub(crate) driver: &'a str,
    pub(crate) group: Option<u32>,
    pub(crate) more: &'a [(&'a str, &'a str)],
}

impl Tree {
    /// A machine without any device.
    pub(crate) fn new() -> Self {
        // In memory, like sysfs.
        let memory = Path::new("/dev/shm");
        let folder = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
        Self::below(&folder)
    }

    /// A machine without any device, in this directory.
    pub(crate) fn below(folder: &Path) -> Self {
        let root = tempfile::Builder::new().prefix("tdx-tree.").tempdir_in(folder).unwrap();
        let tree = Self { root, devices: BTreeMap::new() };
        for folder in ["sys/bus/pci/devices", "sys/kernel", "proc/self"] {
            fs::create_dir_all(tree.path(folder)).unwrap();
        }
        // Every machine has a mounted file system.
        tree.file("/proc/self/mountinfo", "1 1 0:2 / / rw - rootfs rootfs rw\n");
        tree
    }

    /// A machine with two network cards, each alone in its IOMMU group, in this directory.
    pub(crate) fn with_two_cards(folder: &Path) -> Self {
        let mut tree = Self::below(folder);
        let more = &[("reset_method", "flr bus"), ("modalias", "pci:x")][..];
        for (group, bdf) in [(1, "0000:40:00.0"), (2, "0000:40:01.0")] {
            let (ids, class, driver) = ("8086:1533", "020000", "igb");
            tree.device("0000:40", bdf, Spec { ids, class, driver, group: Some(group), more });
        }
        tree
    }

    /// The path of a file of the machine.
    pub(crate) fn path(&self, path: &str) -> PathBuf {
        self.root.path().join(path.trim_start_matches('/'))
    }

    /// Writes a file and creates its directories.
    pub(crate) fn file(&self, path: &str, text: impl AsRef<[u8]>) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// Creates a link as sysfs does: relative, from `link` to `target`; both are paths of the machine.
    pub(crate) fn link(&self, link: &str, target: &str) {
        let up = "../".repeat(link.trim_matches('/').matches('/').count());
        let path = self.path(link);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        symlink(format!("{up}{}", target.trim_start_matches('/')), path).unwrap();
    }

    /// The sysfs directory of a device.
    pub(crate) fn folder(&self, bdf: &str) -> String {
        format!("/{}", self.devices[bdf].display())
    }

    /// Adds a device behind a bridge that was added before, or on a root bus such as `0000:17`.
    pub(crate) fn device(&mut self, parent: &str, bdf: &str, spec: Spec<'_>) {
        let above = self.devices.get(parent).cloned();
        let above = above.unwrap_or_else(|| Path::new("sys/devices").join(format!("pci{parent}")));
        let folder = above.join(bdf);
        let path = folder.to_str().unwrap().to_owned();
        self.devices.insert(bdf.to_owned(), folder);

        let mut ids = spec.ids.split(':').map(|id| format!("0x{id}\n"));
        for name in ["vendor", "device", "subsystem_vendor", "subsystem_device"] {
            let id = ids.next().unwrap_or_else(|| "0x0000\n".to_owned());
            self.file(&format!("{path}/{name}"), id);
        }
        self.file(&format!("{path}/class"), format!("0x{}\n", spec.class));
        self.file(&format!("{path}/config"), header(spec.class));
        let usual = [
            ("revision", "0x01\n"),
            ("numa_node", "-1\n"),
            ("driver_override", "(null)\n"),
            ("power_state", "D0\n"),
        ];
        for (name, text) in usual {
            self.file(&format!("{path}/{name}"), text);
        }
        for (name, text) in spec.more {
            match text.strip_prefix("-> ") {
                Some(target) => self.link(&format!("{path}/{name}"), target),
                None => self.file(&format!("{path}/{name}"), format!("{text}\n")),
            }
        }
        self.link(&format!("sys/bus/pci/devices/{bdf}"), &path);
        if !spec.driver.is_empty() {
            let driver = format!("sys/bus/pci/drivers/{}", spec.driver);
            fs::create_dir_all(self.path(&driver)).unwrap();
            self.link(&format!("{path}/driver"), &driver);
        }
        if let Some(number) = spec.group {
            let group = format!("sys/kernel/iommu_groups/{number}");
            self.file(&format!("{group}/type"), "DMA-FQ\n");
            self.link(&format!("{path}/iommu_group"), &group);
            self.link(&format!("{group}/devices/{bdf}"), &path);
        }
    }

    /// Adds a disk below a device, with partitions. `number` is the `major:minor` of the disk; those of the
    /// partitions follow.
    pub(crate) fn disk(&self, bdf: &str, below: &str, name: &str, number: (u32, u32), parts: u32) {
        let folder = format!("{}/{below}/{name}", self.folder(bdf));
        let (major, minor) = number;
        self.block(&folder, name, &format!("{major}:{minor}"));
        self.link(&format!("sys/block/{name}"), &folder);
        for part in 1..=parts {
            let suffix = if name.ends_with(|c: char| c.is_ascii_digit()) { "p" } else { "" };
            let part_name = format!("{name}{suffix}{part}");
            let part_folder = format!("{folder}/{part_name}");
            self.block(&part_folder, &part_name, &format!("{major}:{}", minor + part));
            self.file(&format!("{part_folder}/partition"), format!("{part}\n"));
        }
    }

    /// Adds a block device made of others: a device-mapper device or an array.
    pub(crate) fn stacked(&self, name: &str, number: &str, slaves: &[&str]) {
        let folder = format!("/sys/devices/virtual/block/{name}");
        self.block(&folder, name, number);
        self.link(&format!("sys/block/{name}"), &folder);
        for slave in slaves {
            let target = fs::canonicalize(self.path(&format!("sys/class/block/{slave}"))).unwrap();
            let root = fs::canonicalize(self.root.path()).unwrap();
            let target = target.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
            self.link(&format!("{folder}/slaves/{slave}"), &target);
            self.link(&format!("{target}/holders/{name}"), &folder);
        }
    }

    fn block(&self, folder: &str, name: &str, number: &str) {
        self.file(&format!("{folder}/dev"), format!("{number}\n"));
        self.link(&format!("sys/class/block/{name}"), folder);
        self.link(&format!("sys/dev/block/{number}"), folder);
    }

    /// Adds a network interface below a device.
    pub(crate) fn interface(&self, bdf: &str, name: &str) {
        let folder = format!("{}/net/{name}", self.folder(bdf));
        self.file(&format!("{folder}/operstate"), "up\n");
        self.link(&format!("sys/class/net/{name}"), &folder);
    }

    /// Runs `tdx-iommu` on this machine with its arguments in one line.
    pub(crate) fn iommu(&self, line: &str) -> Run {
        tool("tdx-iommu", self.words(line))
    }

    /// Like [`Tree::iommu`], with `input` on standard input.
    pub(crate) fn iommu_with(&self, line: &str, input: &str) -> Run {
        tool_with_input("tdx-iommu", self.words(line), input)
    }

    /// Runs another tool on this machine with its arguments in one line.
    pub(crate) fn run(&self, name: &str, line: &str) -> Run {
        tool(name, self.words(line))
    }

    /// The command that [`Tree::run`] runs.
    pub(crate) fn command(&self, name: &str, line: &str) -> Command {
        tool_command(name, self.words(line))
    }

    fn words(&self, line: &str) -> Vec<String> {
        let root = self.root.path().to_str().unwrap();
        let line = line.split_whitespace().map(str::to_owned);
        line.chain(["--sysroot".to_owned(), root.to_owned()]).collect()
    }
}

/// The first 64 bytes of the configuration space, with the fields that the tools read.
fn header(class: &str) -> [u8; 64] {
    let mut bytes = [0; 64];
    bytes[0x0e] = u8::from(class.starts_with("0604"));
    bytes
}
