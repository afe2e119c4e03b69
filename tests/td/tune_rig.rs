//! `tdx-td host tune` and `host restore` on a real kernel (rig 2), which accepts or refuses the values.

#![expect(clippy::disallowed_methods, reason = "tests start programs as users do")]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;

use nix::sys::signal::Signal::SIGKILL;
use serde_json::{Value, json};

use crate::support::kernel::{Kernel, SharedKernel};
use crate::support::steps::{Fate, is_full, moments, of_each_kind, walk_here};
use crate::support::tools::{Run, bin};
use crate::support::wait::wait_for;

/// Prints every tuned value, and the records.
const STATE: &str = "grep -s . /sys/kernel/mm/transparent_hugepage/enabled /sys/kernel/mm/ksm/run \
    /sys/kernel/mm/ksm/merge_across_nodes /proc/sys/vm/swappiness /sys/block/*/queue/scheduler \
    /sys/kernel/mm/hugepages/*/nr_hugepages /sys/module/kvm_amd/parameters/* /run/units/*; \
    echo /sys/module/*; \
    find /run/tdx /var/lib/tdx /etc/{sysctl,tmpfiles,modprobe,udev/rules}.d ! -type d 2>/dev/null; true";

fn state(kernel: &Kernel) -> String {
    kernel.sorted(STATE)
}

/// The kernel for all tests but the one that runs inside of its kernel.
static KERNEL: SharedKernel = SharedKernel::new(start);

/// Starts a kernel whose pool is on the NVMe disk of the rig.
fn start() -> Kernel {
    let kernel = Kernel::start();
    // The rig uses the root file system of this machine, which can be a container.
    kernel.shell("rm -f /.dockerenv /run/.containerenv && mkdir /etc/tdx && echo 'pool_path: /mnt/data' >/etc/tdx/tdx.yaml").text();
    kernel
}

fn td(kernel: &Kernel, line: &str) -> Run {
    kernel.shell(&format!("tdx-td host {line}"))
}

fn says(kernel: &Kernel, path: &str) -> String {
    kernel.shell(&format!("cat {path}")).text().trim().to_owned()
}

fn item<'d>(document: &'d Value, setting: &str) -> &'d Value {
    let mut items = document["items"].as_array().unwrap().iter();
    items.find(|item| item["setting"] == setting).unwrap_or_else(|| panic!("{document:#}"))
}

#[test]
#[ignore = "needs root"]
fn tune_sets_the_values_in_the_kernel_and_restore_sets_the_former_ones() {
    let kernel = KERNEL.lock();
    let before = state(&kernel);
    let disk = kernel.shell("basename $(findmnt -no SOURCE /mnt/data)").text().trim().to_owned();
    let scheduler = format!("/sys/block/{disk}/queue/scheduler");
    for (scenario, ksm, merge, swappiness, io) in [
        ("securevm --security sev", "0", "0", "0", "bfq"),
        ("computation", "1", "1", "0", "mq-deadline"),
        ("desktop", "1", "1", "35", "mq-deadline"),
        ("td", "0", "0", "0", "none"),
    ] {
        let line = format!("tune --scenario {scenario} --set host.hugepages=8 --yes");
        let plan = td(&kernel, &format!("{line} --dry-run")).document();
        assert_eq!(state(&kernel), before, "a plan touches nothing");
        let done = td(&kernel, &line).document();
        assert_eq!(done["items"], plan["items"]);
        assert_eq!(done["changed"], true);
        let words = |path: &str| says(&kernel, path);
        assert!(words("/sys/kernel/mm/transparent_hugepage/enabled").starts_with("[always]"));
        assert_eq!(words("/sys/kernel/mm/ksm/run"), ksm, "{scenario}");
        assert_eq!(words("/sys/kernel/mm/ksm/merge_across_nodes"), merge, "{scenario}");
        assert_eq!(words("/proc/sys/vm/swappiness"), swappiness);
        assert_eq!(words("/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages"), "8");
        assert!(
            words(&scheduler).contains(&format!("[{io}]")),
            "{scenario}: {}",
            words(&scheduler)
        );
        let again = td(&kernel, &line).document();
        assert_eq!(again["changed"], false, "{again:#}");
        let back = td(&kernel, "restore --yes").document();
        assert_eq!(back["changed"], true);
        assert_eq!(state(&kernel), before, "{scenario}");
    }
    // The persistent files are valid for the programs that read them.
    td(&kernel, "tune --scenario securevm --security sev --persist --yes").document();
    let read = "! command -v udevadm >/dev/null || ! udevadm verify --help >/dev/null 2>&1 || \
        udevadm verify --resolve-names=never /etc/udev/rules.d/90-tdx.rules >&2; \
        sysctl -w vm.swappiness=60 >&2 && sysctl -p /etc/sysctl.d/90-tdx.conf && \
        modprobe -c | grep '^options kvm_amd sev'; \
        ! command -v systemd-tmpfiles >/dev/null || { echo 1 >/sys/kernel/mm/ksm/run && \
            systemd-tmpfiles --create /etc/tmpfiles.d/tdx.conf && cat /sys/kernel/mm/ksm/run; }";
    let read = kernel.shell(read);
    for told in ["vm.swappiness = 0", "options kvm_amd sev=1", "options kvm_amd sev_es=1"] {
        assert!(read.text().contains(told), "{read:#?}");
    }
    assert!(!read.text().ends_with("1\n1\n"), "{read:#?}");
    assert_eq!(says(&kernel, "/proc/sys/vm/swappiness"), "0");
    td(&kernel, "restore --yes").document();
    assert_eq!(state(&kernel), before);
}

/// The kernel refuses to change merge_across_nodes while pages are merged.
#[test]
#[ignore = "needs root"]
fn tune_separates_merged_pages_before_it_changes_the_merging_rule() {
    let kernel = KERNEL.lock();
    let qemu = "qemu-system-x86_64 -machine none -nodefaults -display none -S \
        -object memory-backend-ram,id=m,size=8M,prealloc=on,merge=on </dev/null >/dev/null 2>&1 & echo $!";
    let qemu = kernel.shell(qemu).text().trim().to_owned();
    kernel.shell("cd /sys/kernel/mm/ksm && echo 5000 >pages_to_scan && echo 1 >run").text();
    wait_for("merged pages", || {
        (says(&kernel, "/sys/kernel/mm/ksm/pages_shared") != "0").then_some(())
    });
    let before = state(&kernel);
    let naive = kernel.shell("echo 0 >/sys/kernel/mm/ksm/merge_across_nodes");
    assert!(naive.stderr.contains("busy"), "{naive:#?}");
    let done = td(&kernel, "tune --scenario td --yes").document();
    let merge = item(&done, "host.ksm_merge_across_nodes");
    assert!(merge["note"].as_str().unwrap().contains("are separated first"), "{merge}");
    let merging = ["run", "merge_across_nodes", "pages_shared"];
    let merging = merging.map(|name| says(&kernel, &format!("/sys/kernel/mm/ksm/{name}")));
    assert_eq!(merging, ["0", "0", "0"]);
    // restore also separates pages that were merged meanwhile.
    kernel.shell("echo 1 >/sys/kernel/mm/ksm/run").text();
    wait_for("merged pages", || {
        (says(&kernel, "/sys/kernel/mm/ksm/pages_shared") != "0").then_some(())
    });
    td(&kernel, "restore --yes").document();
    assert_eq!(state(&kernel), before);
    kernel.shell(&format!("kill {qemu}")).text();
}

#[test]
#[ignore = "needs root"]
fn tune_undoes_failed_changes_and_refuses_impossible_ones() {
    let kernel = KERNEL.lock();
    let before = state(&kernel);
    let same = || assert_eq!(state(&kernel), before);
    // More huge pages than the memory can hold.
    let error = td(
        &kernel,
        "tune --scenario securevm --security sev --persist --set host.hugepages=100000 --yes",
    )
    .error(1);
    assert!(error["message"].as_str().unwrap().contains("although 100000 was written"), "{error}");
    assert_eq!(error["left_behind"], json!([]));
    assert!(error["hint"].as_str().unwrap().contains("hugepages=N"), "{error}");
    same();
    // Huge pages of a killed command: only a part is allocated.
    td(&kernel, "tune --scenario td --set host.hugepages=16 --yes").document();
    kernel.shell("echo 5 >/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages").text();
    td(&kernel, "restore --yes").document();
    same();
    // Files that cannot be written.
    for (what, path) in [("/sys", "/sys/kernel/mm/"), ("/proc/sys", "/proc/sys/vm/")] {
        let line = format!(
            "unshare -m sh -c 'mount --bind {what} {what} && mount -o remount,bind,ro {what} && \
             tdx-td host tune --scenario desktop --yes'"
        );
        let error = kernel.shell(&line).error(1);
        assert!(error["message"].as_str().unwrap().contains(path), "{error}");
        assert!(error["causes"][0].as_str().unwrap().contains("Read-only"), "{error}");
        same();
    }
    let nobody = "setpriv --reuid 65534 --regid 65534 --clear-groups tdx-td host";
    kernel.shell(&format!("{nobody} tune --scenario desktop --yes")).error(7);
    kernel.shell(&format!("{nobody} restore --yes")).error(7);
    kernel.shell(&format!("{nobody} tune --scenario desktop --dry-run")).document();
    let error = td(&kernel, "tune --scenario desktop").error(5);
    assert!(error["hint"].as_str().unwrap().contains("--yes"), "{error}");
    same();
    // Two simultaneous commands: one waits for the other.
    let both = kernel.shell(
        "tdx-td host tune --scenario td --yes >/tmp/one & tdx-td host tune --scenario td --yes >/tmp/two; \
         wait $! && cat /tmp/one /tmp/two",
    );
    assert!(both.text().contains("\"changed\":true"), "{both:#?}");
    td(&kernel, "restore --yes").document();
    same();
}

/// A stand-in for `systemctl`. Two files are a unit: one says whether it runs, the other whether it starts at
/// boot.
const STAND_IN: &str = r#"#!/bin/sh
unit=/run/units/$(eval echo \$$#)
[ "$1" != show ] || { [ -e $unit.running ] && echo LoadState=loaded || echo LoadState=not-found; }
case $1 in
show) echo "ActiveState=$(cat $unit.running 2>/dev/null)"; echo "UnitFileState=$(cat $unit.enabled 2>/dev/null)" ;;
start) echo active >$unit.running; echo 1 >/sys/kernel/mm/ksm/run ;;
stop) echo inactive >$unit.running; echo 0 >/sys/kernel/mm/ksm/run ;;
enable) echo enabled >$unit.enabled ;;
disable) echo disabled >$unit.enabled ;;
esac
"#;

/// The units of Fedora and SUSE write to the same file as tune does.
#[test]
#[ignore = "needs root"]
fn tune_stops_and_restore_starts_the_units_that_write_the_same_settings() {
    let kernel = KERNEL.lock();
    kernel
        .shell(&format!(
            "mkdir -p /run/systemd/system /run/units && cat >/usr/local/sbin/systemctl <<'END' && \
         chmod +x /usr/local/sbin/systemctl\n{STAND_IN}END\n\
         cd /run/units && for unit in ksm ksmtuned; do echo active >$unit.service.running; \
         echo enabled >$unit.service.enabled; done; echo 1 >/sys/kernel/mm/ksm/run"
        ))
        .text();
    let before = state(&kernel);
    let units = || kernel.shell("cd /run/units && cat ksm.* ksmtuned.*").text().replace('\n', " ");
    let done = td(&kernel, "tune --scenario td --yes").document();
    let of = |document: &Value, unit: &str| {
        let items = document["items"].as_array().unwrap().iter();
        items.clone().find(|item| item["path"] == unit).unwrap().clone()
    };
    let ksm = of(&done, "ksm.service");
    assert_eq!((&ksm["action"], &ksm["current"]), (&json!("stop"), &json!("active, enabled")));
    assert_eq!(units(), "enabled inactive enabled inactive ");
    assert_eq!(says(&kernel, "/sys/kernel/mm/ksm/run"), "0");
    assert_eq!(td(&kernel, "tune --scenario td --yes").document()["changed"], false);
    // --persist also disables the units; the record of that survives a reboot.
    let done = td(&kernel, "tune --scenario td --persist --yes").document();
    assert_eq!(of(&done, "ksmtuned.service")["action"], "persist");
    assert_eq!(units(), "disabled inactive disabled inactive ");
    td(&kernel, "restore --yes").document();
    assert_eq!(state(&kernel), before);
    td(&kernel, "tune --scenario td --persist --yes").document();
    kernel.shell("rm -r /run/tdx").text();
    td(&kernel, "restore --yes").document();
    assert_eq!(units(), "enabled inactive enabled inactive ");
    // A scenario that wants merging starts the unit.
    kernel.shell("cd /run/units && echo inactive | tee ksm.service.running ksmtuned.service.running && echo disabled >ksm.service.enabled; echo 0 >/sys/kernel/mm/ksm/run; echo 1 >/sys/kernel/mm/ksm/merge_across_nodes").text();
    let before = state(&kernel);
    let done = td(&kernel, "tune --scenario computation --persist --yes").document();
    assert_eq!(of(&done, "ksm.service")["action"], "start");
    assert!(of(&done, "ksmtuned.service")["note"].as_str().unwrap().contains("is not changed"));
    assert_eq!(units(), "enabled active enabled inactive ");
    td(&kernel, "restore --yes").document();
    assert_eq!(state(&kernel), before);
}

/// The module kvm_amd can be loaded in the rig; the option itself does not matter.
#[test]
#[ignore = "needs root"]
fn tune_reloads_a_module_for_its_options() {
    let kernel = KERNEL.lock();
    kernel.shell("modprobe kvm_amd nested=1").text();
    let before = state(&kernel);
    let line = "tune --scenario default --set host.modules.kvm_amd.nested=0 --yes";
    let done = td(&kernel, line).document();
    let nested = item(&done, "host.modules.kvm_amd.nested");
    assert_eq!((&nested["action"], &nested["in_force"]), (&json!("none"), &json!(false)));
    let done = td(&kernel, &format!("{line} --reload-modules")).document();
    let nested = item(&done, "host.modules.kvm_amd.nested");
    assert_eq!((&nested["action"], &nested["in_force"]), (&json!("reload"), &json!(true)));
    assert_eq!(says(&kernel, "/sys/module/kvm_amd/parameters/nested"), "0");
    // A kill while the module is not loaded.
    kernel.shell("modprobe -r kvm_amd").text();
    td(&kernel, "restore --yes").document();
    assert_eq!(state(&kernel), before);
}

/// The state that [`STATE`] prints, for a test that runs in the rig.
fn state_here() -> BTreeMap<PathBuf, String> {
    let mut files: Vec<PathBuf> = [
        "/sys/kernel/mm/transparent_hugepage/enabled",
        "/sys/kernel/mm/ksm/run",
        "/sys/kernel/mm/ksm/merge_across_nodes",
        "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages",
        "/proc/sys/vm/swappiness",
    ]
    .map(PathBuf::from)
    .to_vec();
    let names = |folder: &str| {
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).collect::<Vec<_>>()
    };
    files.extend(names("/sys/block").into_iter().map(|disk| disk.join("queue/scheduler")));
    for folder in [
        "/run/tdx/tuned",
        "/var/lib/tdx/tuned",
        "/etc/sysctl.d",
        "/etc/tmpfiles.d",
        "/etc/modprobe.d",
        "/etc/udev/rules.d",
    ] {
        files.extend(names(folder));
    }
    files
        .into_iter()
        .filter_map(|path| Some((path.clone(), fs::read_to_string(path).ok()?)))
        .collect()
}

/// Runs one of the tools on the machine on which the test runs.
fn here(line: &str) -> Run {
    let (tool, arguments) = line.split_once(' ').unwrap();
    let mut command = Command::new(bin(tool));
    command.args(arguments.split(' '));
    Run::of(command, b"")
}

/// The test runs in the rig, because a tracer must run on the machine of its tracee.
#[test]
#[ignore = "needs root"]
fn tune_and_restore_killed_at_any_step_are_repaired_by_restore() {
    const TEST: &str = "tune_and_restore_killed_at_any_step_are_repaired_by_restore";
    if std::env::var_os("TUNE_INSIDE").is_none() {
        print!("{}", start().this_test("TUNE_INSIDE=1", module_path!(), TEST).text());
        return;
    }
    const TUNE: &str = "tdx-td host tune --scenario securevm --security sev --set host.hugepages=4 --persist --yes";
    const RESTORE: &str = "tdx-td host restore --yes";
    // The first run creates the directories.
    here(TUNE).document();
    here(RESTORE).document();
    let before = state_here();
    for (line, prepare) in [(TUNE, None), (RESTORE, Some(TUNE))] {
        let began = Instant::now();
        let ready = || {
            if let Some(line) = prepare {
                here(line).document();
            }
        };
        ready();
        let steps = walk_here(line, None);
        steps.run.document();
        here(RESTORE).document();
        assert_eq!(state_here(), before, "{line}, undisturbed");
        // A step after one that changed nothing is not tested separately.
        let idle = |step: &str| {
            ["lock ", "flush ", "make directory "].iter().any(|verb| step.starts_with(verb))
        };
        let mut moments = moments(&steps.steps, true);
        moments.retain(|moment| {
            let mut at = (0..steps.steps.len()).filter(|at| steps.steps[*at] == moment.step);
            let at = at.nth(moment.nth - 1).unwrap();
            at > 0 && !idle(&steps.steps[at - 1])
        });
        assert!(moments.len() > 15, "{steps:#?}");
        if !is_full() {
            moments = of_each_kind(moments);
        }
        for moment in &moments {
            ready();
            let walk = walk_here(line, Some((moment.clone(), Fate::Signal(SIGKILL))));
            assert!(walk.struck && walk.signal == Some(9), "{line}, {moment:?}: {walk:#?}");
            here(RESTORE).document();
            assert_eq!(state_here(), before, "{line}, killed at {moment:?}: {walk:#?}");
        }
        println!(
            "{line}: {} steps, {} moments, {:?}",
            steps.steps.len(),
            moments.len(),
            began.elapsed()
        );
    }
}
