//! Two network cards of the kernel rig that claim to be an NVIDIA GPU and an NVSwitch, and a program that
//! answers for them as NVIDIA's program does.

use super::kernel::Kernel;
use super::tools::Run;

/// Answers as `nvidia_gpu_tools.py` does, from files in /tmp/modes. The file log records the modes that were
/// set.
const PROGRAM: &str = r#"#!/bin/sh
cd /tmp/modes || exit 1
for word; do
    case $word in
    --gpu-bdf=*) bdf=${word#*=} ;;
    --query-*-mode) asked=${word#--query-} asked=${asked%-mode} ;;
    --set-*-mode=*) asked=${word#--set-} asked=${asked%-mode=*} wanted=${word#*=} ;;
    esac
done
case $(cat /sys/bus/pci/devices/$bdf/device) in
0x22a3) name="NvSwitch $bdf LS10 0x22a3" ;;
*) name="GPU $bdf H100 0x2330" ;;
esac
case $asked in cc) title=CC ;; *) title=PPCIe ;; esac
echo "NVIDIA GPU Tools version v2025.10.20"
if [ -n "$wanted" ]; then
    if [ "$(cat fail 2>/dev/null)" = "$bdf $asked $wanted" ]; then
        echo "2026-11-21,12:00:00.000 ERROR    $name could not be set" >&2
        exit 1
    fi
    echo "$bdf $asked $wanted" >>log
    echo $wanted >$bdf.$asked
fi
mode=$(cat $bdf.$asked 2>/dev/null || echo off)
echo "2026-11-21,12:00:00.000 INFO     $name BAR0 0x1000 $title mode is $mode" >&2
"#;

/// Gives the cards the identities of a GPU and an NVSwitch, and installs the program.
pub(crate) fn install(kernel: &Kernel, gpu: &str, switch: &str) {
    for (bdf, device, class) in [(gpu, "0x2330", "0x030200"), (switch, "0x22a3", "0x068000")] {
        for (file, text) in [("vendor", "0x10de"), ("device", device), ("class", class)] {
            let path = format!("/sys/bus/pci/devices/{bdf}/{file}");
            kernel.shell(&format!("echo {text} >id.$$ && mount --bind id.$$ {path}")).text();
        }
    }
    let install = "mkdir modes && cat >/usr/local/bin/nvidia_gpu_tools.py && \
        chmod 0755 /usr/local/bin/nvidia_gpu_tools.py";
    let mut command = kernel.command("bash");
    command.args(["-c", install]);
    Run::of(command, PROGRAM.as_bytes()).text();
}
