//! `tdx-gpu cc` with NVIDIA's own program, on GPUs made of files: the program reads their configuration space
//! and registers through sysfs, as those of real GPUs. It cannot do here what needs GPU firmware.
//!
//! This repository contains nothing of NVIDIA's. The test was run with v2025.10.20 of
//! <https://github.com/NVIDIA/gpu-admin-tools>. Run it as root:
//!
//!     TDX_GPU_TOOLS=…/nvidia_gpu_tools.py cargo test -p tdx-gpu --test gpu_tools -- --ignored

#![expect(clippy::disallowed_methods, reason = "tests start programs as users do")]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[allow(dead_code, reason = "a binary uses a part of it")]
#[path = "../support"]
mod support {
    pub(crate) mod tools;
    pub(crate) mod tree;
}

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::process::Command;

use serde_json::{Value, json};

use crate::support::tools::{Run, bin};
use crate::support::tree::{Spec, Tree};

const GPU: &str = "0000:11:00.0";
const SWITCH: &str = "0000:21:00.0";

fn program() -> String {
    std::env::var("TDX_GPU_TOOLS").expect("TDX_GPU_TOOLS names NVIDIA's program")
}

/// A configuration space with power management and PCI Express, as a port or an endpoint.
fn config_space(ids: &str, class: &str) -> Vec<u8> {
    let hex = |text: &str| u32::from_str_radix(text, 16).unwrap();
    let (vendor, device) = ids.split_once(':').unwrap();
    let mut bytes = vec![0; 4096];
    let mut put = |at: usize, value: u32, length: usize| {
        bytes[at..at + length].copy_from_slice(&value.to_le_bytes()[..length]);
    };
    let is_port = class.starts_with("0604");
    put(0x00, hex(vendor), 2);
    put(0x02, hex(device), 2);
    put(0x04, 0x0010_0006, 4);
    put(0x09, hex(class), 3);
    put(0x0e, u32::from(is_port), 1);
    put(0x34, 0x40, 1);
    put(0x40, 0x5001, 2);
    put(0x50, 0x0010, 2);
    put(0x52, if is_port { 0x42 } else { 0x02 }, 2);
    bytes
}

/// An H100 in confidential-computing mode, and a switch in protected PCIe, each behind a port.
fn host() -> Tree {
    let mut tree = Tree::new();
    let mut add = |parent: &str, bdf: &str, ids, class, bars: &str| {
        let group = u32::from_str_radix(&bdf[5..7], 16).ok();
        let driver = if class == "060400" { "pcieport" } else { "" };
        tree.device(parent, bdf, Spec { ids, class, driver, group, more: &[] });
        let folder = tree.folder(bdf);
        tree.file(&format!("{folder}/config"), config_space(ids, class));
        tree.file(&format!("{folder}/resource"), bars);
        tree.path(&folder)
    };
    let none = "0x0 0x0 0x0\n".repeat(6);
    let bars = |length: u64| {
        let end = 0x90_0000_0000 + length - 1;
        format!(
            "0x9000000000 {end:#x} 0x14220c\n0x0 0x0 0x0\n0x8000000000 0x80ffffffff 0x14220c\n{}",
            "0x0 0x0 0x0\n".repeat(3)
        )
    };
    for (port, bdf, ids, class, length, registers) in [
        (
            "0000:10:01.0",
            GPU,
            "10de:2330",
            "030200",
            16 << 20,
            [(0, 0x1800_00a1), (0x200bc, 0xff), (0x11_82cc, 1)],
        ),
        (
            "0000:20:01.0",
            SWITCH,
            "10de:22a3",
            "068000",
            32 << 20,
            [(0, 0x0070_00a1), (0x660bc, 0xff), (0x28c50, 1)],
        ),
    ] {
        add(&port[..7], port, "8086:352a", "060400", &none);
        let folder = add(port, bdf, ids, class, &bars(length));
        let bar = File::create(folder.join("resource0")).unwrap();
        bar.set_len(length).unwrap();
        for (offset, value) in registers {
            bar.write_all_at(&u32::to_le_bytes(value), offset).unwrap();
        }
        File::create(folder.join("resource2")).unwrap().set_len(1 << 20).unwrap();
    }
    tree
}

/// Runs a program with the machine made of files as /sys.
fn on(tree: &Tree, program: impl AsRef<std::ffi::OsStr>, line: &str) -> Run {
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", "mount --bind \"$0\" /sys && exec \"$@\""]);
    command.arg(tree.path("sys")).arg(program).args(line.split_whitespace());
    Run::of(command, b"")
}

fn cc(tree: &Tree, line: &str) -> Run {
    on(tree, bin("tdx-gpu"), &format!("cc {line} --gpu-tools {}", program()))
}

#[test]
#[ignore = "needs NVIDIA's program in TDX_GPU_TOOLS"]
fn nvidias_program_knows_every_flag_that_cc_passes() {
    let mut command = Command::new(program());
    command.arg("--help");
    let help = Run::of(command, b"");
    for flag in [
        "--gpu-bdf",
        "--query-cc-mode",
        "--query-ppcie-mode",
        "--set-cc-mode {off,on,devtools}",
        "--set-ppcie-mode {off,on}",
        "--reset-after-cc-mode-switch",
        "--reset-after-ppcie-mode-switch",
    ] {
        assert!(help.text().contains(flag), "no {flag} in {help:#?}");
    }
}

#[test]
#[ignore = "needs NVIDIA's program in TDX_GPU_TOOLS"]
fn cc_understands_the_answers_of_nvidias_program() {
    let tree = host();
    // `tdx-gpu` reads the modes itself.
    let item = |bdf: &str| on(&tree, bin("tdx-gpu"), &format!("cc {bdf}")).item();
    assert_eq!((&item(GPU)["cc_mode"], &item(GPU)["ppcie_mode"]), (&json!("on"), &json!("off")));
    assert_eq!(item(SWITCH)["ppcie_mode"], "on");
    // NVIDIA's program agrees: the mode is set already.
    let same = cc(&tree, &format!("{GPU} --set on --yes")).document();
    assert_eq!(same["changed"], false, "{same:#}");
    for (mode, register) in [("off", 0), ("devtools", 3)] {
        let bar = tree.path(&format!("{}/resource0", tree.folder(GPU)));
        let bar = fs::OpenOptions::new().write(true).open(bar).unwrap();
        bar.write_all_at(&u32::to_le_bytes(register), 0x11_82cc).unwrap();
        let same = cc(&tree, &format!("{GPU} --set {mode} --yes")).document();
        assert_eq!(same["changed"], false, "{same:#}");
    }
    let bar = tree.path(&format!("{}/resource0", tree.folder(SWITCH)));
    let bar = fs::OpenOptions::new().write(true).open(bar).unwrap();
    bar.write_all_at(&u32::to_le_bytes(0), 0x28c50).unwrap();
    let same = cc(&tree, &format!("{SWITCH} --set off --yes")).document();
    assert_eq!(same["changed"], false, "{same:#}");
}

#[test]
#[ignore = "needs NVIDIA's program in TDX_GPU_TOOLS"]
fn cc_reports_the_failures_of_nvidias_program() {
    // Without GPU firmware the program can neither set nor restore a mode.
    let tree = host();
    let error = cc(&tree, &format!("{GPU} --set off --yes")).error(1);
    assert_eq!(error["kind"], "command_failed", "{error}");
    assert_eq!(error["left_behind"], json!([format!("the confidential-computing mode of {GPU}")]));
    assert_ne!(error["causes"], json!([]));
    // The configuration space reads as all ones, as if the GPU were gone.
    let config = tree.path(&format!("{}/config", tree.folder(GPU)));
    fs::write(config, vec![0xff; 4096]).unwrap();
    let error = cc(&tree, &format!("{GPU} --set on --yes")).error(1);
    assert_ne!(error["message"], Value::Null, "{error}");
    // The program finds no GPU, and reports that in its own words.
    let empty = Tree::new();
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", "mount --bind \"$0\" /sys && exec \"$@\""]);
    command.arg(empty.path("sys")).arg(bin("tdx-gpu")).args(["cc", GPU, "--set", "on", "--yes"]);
    command.arg("--sysroot").arg(tree.path("")).arg("--gpu-tools").arg(program());
    let error = Run::of(command, b"").error(1);
    assert!(error["causes"].to_string().contains("found nothing"), "{error}");
}
