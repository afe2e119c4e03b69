//! A server made of files whose GPUs have modes that a stand-in for NVIDIA's program sets.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use super::tools::{self, Run};
use super::tree::Tree;
use super::{hosts, tuned};

/// Each mode is in a file: `cc.BDF`, `ppcie.BDF`. `fault.BDF` names the fault of setting a mode other than
/// off: `refuse`, `traceback`, `stay` after the reset, always `silent`, or `lie`. Firmware without protected
/// PCIe refuses to set it (`no-ppcie`), or also to query it (`mute-ppcie`).
const STAND_IN: &str = r#"#!/bin/sh
state=${0%/*}
say() { echo "2025-10-20,12:00:00.123 $*" >&2; }
echo 'NVIDIA GPU Tools version v2025.10.20o'
for argument; do
	case $argument in
	--gpu-bdf=*) bdf=${argument#*=} ;;
	--query-cc-mode) verb=query mode=CC file=cc ;;
	--query-ppcie-mode) verb=query mode=PPCIe file=ppcie ;;
	--set-cc-mode=*) verb=set mode=CC file=cc to=${argument#*=} ;;
	--set-ppcie-mode=*) verb=set mode=PPCIe file=ppcie to=${argument#*=} ;;
	--reset-after-cc-mode-switch | --reset-after-ppcie-mode-switch) ;;
	*) say "ERROR    unrecognized arguments: $argument"; exit 2 ;;
	esac
done
echo "$bdf $verb $mode $to" >>"$state/calls"
[ -e "$state/$file.$bdf" ] || { say "ERROR    Matching for $bdf found nothing"; exit 1; }
[ -e "$state/cc.$bdf" ] && name="GPU $bdf H100-SXM 0x2330 BAR0 0x9000000000" || name="NvSwitch $bdf NvSwitch_gen3 0x22a3 BAR0 0x9000000000"
fault=$(cat "$state/fault.$bdf" 2>/dev/null)
[ "$fault" != silent ] || exit 0
if [ $verb = query ]; then
	[ $mode$fault != PPCIemute-ppcie ] || { say "ERROR    Querying PPCIe mode is not supported on $name"; exit 1; }
	say "WARNING  $name has $mode mode on, some functionality may not work"
	say "INFO     $name $mode mode is $(cat "$state/$file.$bdf")"
	exit
fi
case $verb$mode$fault in setPPCIeno-ppcie | setPPCIemute-ppcie) fault=refuse to=on ;; esac
[ "$to" != off ] || fault=
case $fault in
refuse) say "ERROR    $name does not support PPCIe on current FW. A FW update is required."; exit 1 ;;
traceback)
	printf '%s\n' 'Traceback (most recent call last):' '  File "nvidia_gpu_tools.py", line 4242, in main' \
		"gpu.error.GpuError: $name is in a bad state" >&2
	exit 1 ;;
esac
say "INFO     $name $mode mode set to $to. It will be active after GPU reset."
if [ "$fault" = stay ]; then
	echo "gpu.error.GpuError: $name failed to switch to $mode mode $to, current mode is off." >&2
	exit 1
fi
[ "$fault" = lie ] || echo "$to" >"$state/$file.$bdf"
say "INFO     $name was reset to apply the new $mode mode."
"#;

/// A server whose GPUs and switches are bound to no driver, and a program that sets their modes.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) tree: Tree,
    pub(crate) tools: tempfile::TempDir,
    pub(crate) gpus: Vec<String>,
    pub(crate) switches: Vec<String>,
}

impl Server {
    pub(crate) fn new() -> Self {
        let tree = hosts::server();
        let tools = tempfile::tempdir().unwrap();
        let program = tools.path().join("nvidia_gpu_tools.py");
        fs::write(&program, STAND_IN).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let ids = |id: &str| -> Vec<String> {
            let names = tree.iommu(&format!("scan --id {id} --format name"));
            names.text().lines().map(str::to_owned).collect()
        };
        let (gpus, switches) = (ids("10de:2330"), ids("10de:22a3"));
        assert_eq!((gpus.len(), switches.len()), (8, 4));
        let server = Self { tree, tools, gpus, switches };
        for bdf in server.gpus.iter().chain(&server.switches) {
            let driver = format!("{}/driver", server.tree.folder(bdf));
            fs::remove_file(server.tree.path(&driver)).unwrap();
            server.mode("ppcie", bdf, "off");
        }
        server.gpus.iter().for_each(|bdf| server.mode("cc", bdf, "off"));
        server
    }

    pub(crate) fn file(&self, kind: &str, bdf: &str) -> PathBuf {
        self.tools.path().join(format!("{kind}.{bdf}"))
    }

    pub(crate) fn mode(&self, kind: &str, bdf: &str, mode: &str) {
        fs::write(self.file(kind, bdf), format!("{mode}\n")).unwrap();
    }

    /// Every mode, one on each line.
    pub(crate) fn modes(&self) -> String {
        let mut lines = Vec::new();
        for file in fs::read_dir(self.tools.path()).unwrap().map(|entry| entry.unwrap().path()) {
            let name = file.file_name().unwrap().to_str().unwrap().to_owned();
            if name.starts_with("cc.") || name.starts_with("ppcie.") {
                lines.push(format!("{name} {}", fs::read_to_string(file).unwrap().trim()));
            }
        }
        lines.sort_unstable();
        lines.join("\n")
    }

    /// The calls of the program since the last call of this method.
    pub(crate) fn calls(&self) -> Vec<String> {
        let file = self.tools.path().join("calls");
        let calls = fs::read_to_string(&file).unwrap_or_default();
        fs::remove_file(file).ok();
        calls.lines().map(|line| line.trim().to_owned()).collect()
    }

    /// Every mode and every file of the machine.
    pub(crate) fn state(&self) -> BTreeMap<PathBuf, (u32, Vec<u8>)> {
        let mut state = tuned::files(&self.tree.path(""));
        state.extend(tuned::files(self.tools.path()));
        state.remove(&self.tools.path().join("calls"));
        state
    }

    /// Runs `tdx-gpu unbind` with the program on PATH.
    pub(crate) fn unbind(&self, line: &str) -> Run {
        let mut command = tools::on_path(tools::bin("tdx-gpu"));
        command.arg("unbind").args(line.split_whitespace()).arg("--sysroot");
        command.arg(self.tree.path("")).env_clear();
        command.env("PATH", format!("{}:/usr/bin:/bin", self.tools.path().display()));
        Run::of(command, b"")
    }

    pub(crate) fn cc(&self, line: &str) -> Run {
        let root = self.tree.path("").display().to_string();
        let words = ["cc"].into_iter().chain(line.split_whitespace());
        tools::tool("tdx-gpu", words.chain(["--sysroot", &root]))
    }

    pub(crate) fn set(&self, mode: &str, devices: &[String]) -> Run {
        let program = self.tools.path().join("nvidia_gpu_tools.py");
        let devices = devices.join(" ");
        self.cc(&format!("{devices} --set {mode} --yes --gpu-tools {}", program.display()))
    }
}
