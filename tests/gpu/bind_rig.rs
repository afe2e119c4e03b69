//! `tdx-gpu` on a real kernel with a real IOMMU (rig 2): drivers, overrides and refusals are its own.

#![expect(clippy::disallowed_methods, reason = "tests start programs as users do")]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]
#![expect(clippy::print_stdout, reason = "the figures, for --nocapture")]

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;

use nix::sys::signal::Signal::SIGKILL;
use serde_json::{Value, json};

use crate::support::kernel::Kernel;
use crate::support::steps::{Fate, Moment, is_full, moments, of_each_kind, walk_here};
use crate::support::table::{self, Row};
use crate::support::tools::{Run, bin};

/// Tells who drives what, every override, the limit on mappings, our records and the unit. Few programs:
/// each start is slow in an emulated machine.
const STATE: &str = "find /sys/bus/pci/devices/*/ -maxdepth 1 -name driver -printf '%p %l\\n'; \
        grep . /sys/bus/pci/devices/*/driver_override; \
        echo $(</sys/module/vfio_iommu_type1/parameters/dma_entry_limit); \
        find /run/tdx /etc/tdx /etc/systemd/system/{,*.wants/}{,.}tdx* ! -type d 2>/dev/null; true";

fn state(kernel: &Kernel) -> String {
    kernel.sorted(STATE)
}

fn eight(kernel: &Kernel) -> Vec<String> {
    (0..8).map(|n| kernel.nvme(&format!("rig-{n}"))).collect()
}

fn gpu<'a>(kernel: &Kernel, words: impl IntoIterator<Item = &'a str>) -> Run {
    kernel.tool("tdx-gpu", words)
}

fn drivers(document: &Value) -> Vec<(String, Value)> {
    let items = document["items"].as_array().unwrap().iter();
    items.map(|i| (i["bdf"].as_str().unwrap().to_owned(), i["driver"].clone())).collect()
}

#[test]
#[ignore = "needs root"]
fn devices_go_to_vfio_and_come_back() {
    let kernel = Kernel::start();
    let before = state(&kernel);
    let nics = kernel.shell("tdx-iommu scan --driver e1000e --format name").text().to_owned();
    let nic = nics.lines().last().unwrap();

    // A plan touches nothing.
    let plan = gpu(&kernel, ["bind", nic, "--dry-run"]).document();
    assert_eq!((&plan["changed"], &plan["items"][0]["driver"]), (&json!(true), &json!("vfio-pci")));
    assert_eq!(state(&kernel), before);

    // An item of another device, or of another host, binds nothing.
    for edit in
        [".vendor_id=\"10de\"", ".device_id=\"2330\"", ".serial=.device_id", ".host=\"other\""]
    {
        let line = format!("tdx-iommu scan {nic} | jq '.items[0]{edit}' | tdx-gpu");
        // The emulated card has no serial number that could differ.
        if edit.starts_with(".serial") {
            kernel.shell(&format!("{line} bind - -n")).document();
            continue;
        }
        for verb in ["bind -", "unbind -", "check -"] {
            let error = kernel.shell(&format!("{line} {verb}")).error(5);
            assert_eq!(error["code"], "IDENTITY_CHANGED", "{edit}: {error}");
            assert_eq!(state(&kernel), before, "{edit}");
        }
    }

    // One device; again, and it is there already.
    let bound = gpu(&kernel, ["bind", nic]).document();
    assert_eq!(bound["items"], plan["items"]);
    assert_eq!(bound["items"][0]["previous_driver"], "e1000e");
    let group = bound["items"][0]["iommu_group"].as_u64().unwrap();
    kernel.shell(&format!("test -c /dev/vfio/{group}")).text();
    let again = gpu(&kernel, ["bind", nic]).document();
    assert_eq!(again["changed"], false);
    let list = gpu(&kernel, ["list"]).document();
    let listed = list["items"].as_array().unwrap().iter().find(|item| item["bdf"] == nic).unwrap();
    assert_eq!(
        (&listed["driver"], &listed["previous_driver"]),
        (&json!("vfio-pci"), &json!("e1000e"))
    );
    // A guest of the host's size can map all its memory.
    let needed = kernel.shell("awk '/MemTotal/ {print int(($2 + 3) / 4) + 32764}' /proc/meminfo");
    assert_eq!(state(&kernel).lines().filter(|l| *l == needed.text().trim()).count(), 1);

    let back = gpu(&kernel, ["unbind", nic]).document();
    assert_eq!(back["items"][0]["driver"], "e1000e");
    assert_eq!(back["items"][0]["action"], "unbind");
    assert_eq!(gpu(&kernel, ["unbind", nic]).document()["changed"], false);
    assert_eq!(state(&kernel), before);

    // A card with two functions, of which one is named.
    let card = kernel.shell("tdx-iommu scan --class 03 --format name").text().trim().to_owned();
    let refused = gpu(&kernel, ["bind", &card]).error(5);
    assert_eq!(refused["code"], "CONSOLE_GPU", "{refused}");
    let bound = gpu(&kernel, ["bind", &card, "--force", "CONSOLE_GPU", "--yes"]).document();
    assert_eq!(bound["items"].as_array().unwrap().len(), 2, "{bound:#}");
    assert!(bound["warnings"][0].as_str().unwrap().contains("CONSOLE_GPU"), "{bound:#}");
    assert!(drivers(&bound).iter().all(|(_, driver)| driver == "vfio-pci"));
    gpu(&kernel, ["unbind", &card]).document();
    assert_eq!(state(&kernel), before);

    // Eight at once, by a pipeline, and back by --all.
    let all = eight(&kernel);
    let names: Vec<&str> = all.iter().map(String::as_str).collect();
    let line = format!("tdx-iommu scan {} | tdx-gpu bind - --memory 1G", names.join(" "));
    let bound = kernel.shell(&line).document();
    assert_eq!(drivers(&bound).len(), 8);
    let back = gpu(&kernel, ["unbind", "--all"]).document();
    assert!(drivers(&back).iter().all(|(_, driver)| driver == "nvme"), "{back:#}");
    assert_eq!(state(&kernel), before);
}

#[test]
#[ignore = "needs root"]
fn what_the_host_needs_is_refused_and_nothing_changes() {
    let kernel = Kernel::start();
    let before = state(&kernel);
    let refused = |words: &[&str], code: &str| {
        let error = gpu(&kernel, words.iter().copied()).error(5);
        assert_eq!(error["code"], code, "{error}");
        assert_eq!(state(&kernel), before, "{words:?}");
    };
    let data = kernel.nvme("rig-data");
    refused(&["bind", &data], "HOST_DISK_MOUNTED");
    refused(&["bind", &data, "--dry-run"], "HOST_DISK_MOUNTED");
    let bridge = kernel.shell("tdx-iommu scan --class 0604 --format name | head -n 1");
    refused(&["bind", bridge.text().trim()], "NONENDPOINT");
    // Two cards behind a bridge without ACS: one alone is refused, the whole group goes.
    let old = kernel.shell("tdx-iommu scan --driver e1000 --format name").text().to_owned();
    let one = old.lines().next().unwrap();
    refused(&["bind", one], "HOST_DRIVER");
    let both = gpu(&kernel, ["bind", one, "--whole-group"]).document();
    assert_eq!(drivers(&both).len(), 2, "{both:#}");
    gpu(&kernel, ["unbind", "--all"]).document();
    assert_eq!(state(&kernel), before);

    // Of eight of which one cannot go, none goes.
    let mut all = eight(&kernel);
    all[3] = data;
    let names: Vec<&str> = ["bind"].into_iter().chain(all.iter().map(String::as_str)).collect();
    refused(&names, "HOST_DISK_MOUNTED");

    // Virtual functions have to go first.
    let physical = kernel.nvme("rig-pf");
    kernel.shell(&format!("echo 1 >/sys/bus/pci/devices/{physical}/sriov_numvfs")).text();
    let error = gpu(&kernel, ["bind", &physical]).error(5);
    assert_eq!(error["code"], "PF_HAS_VFS", "{error}");
    kernel.shell(&format!("echo 0 >/sys/bus/pci/devices/{physical}/sriov_numvfs")).text();

    // What is open cannot be taken away, and is not tried: the kernel would wait.
    let nvme = kernel.nvme("rig-0");
    gpu(&kernel, ["bind", &nvme]).document();
    let held = kernel.hold(&nvme);
    for verb in [&["unbind", &nvme][..], &["unbind", "--all"], &["bind", &nvme]] {
        let error = gpu(&kernel, verb.iter().copied()).error(5);
        assert_eq!(error["code"], "IN_USE_BY_VM", "{error}");
    }
    drop(held);
    gpu(&kernel, ["unbind", &nvme]).document();
    assert_eq!(state(&kernel), before);

    // So it is with the nodes of the host's drivers, unless it is forced.
    let nodes =
        format!("cd /sys/bus/pci/devices/{nvme}/nvme && echo nvme* $(basename nvme*/nvme*n1)");
    let nodes = kernel.shell(&nodes).text().trim().to_owned();
    for node in nodes.split(' ') {
        let hold = format!("sleep 1000 </dev/{node} >/dev/null 2>&1 & echo $!");
        let sleeper = kernel.shell(&hold).text().trim().to_owned();
        let error = gpu(&kernel, ["bind", &nvme]).error(5);
        assert_eq!(error["code"], "OPEN_FDS", "{error}");
        let who = format!("sleep (process {sleeper}) has /dev/{node} open");
        assert!(error["message"].as_str().unwrap().contains(&who), "{error}");
        assert_eq!(state(&kernel), before);
        let check = gpu(&kernel, ["check", &nvme]);
        assert_eq!(check.status, Some(10));
        assert!(check.stdout.contains("OPEN_FDS") && check.stdout.contains(&who), "{check:#?}");
        let forced = gpu(&kernel, ["bind", &nvme, "--force", "OPEN_FDS", "--yes"]).document();
        assert!(forced["warnings"][0].as_str().unwrap().contains(&who), "{forced:#}");
        kernel.shell(&format!("kill {sleeper}")).text();
        gpu(&kernel, ["unbind", &nvme]).document();
        assert_eq!(state(&kernel), before);
    }

    gpu(&kernel, ["bind", "0000:ff:1f.7"]).error(4);
    gpu(&kernel, ["bind", "17:00"]).error(2);
    gpu(&kernel, ["bind", &nvme, "--force", "HOST_DISK_ROOT", "--yes"]).error(2);
    gpu(&kernel, ["bind", &nvme, "--force", "CONSOLE_GPU"]).error(5);
    gpu(&kernel, ["unbind"]).error(2);
    kernel.pipe("tdx-gpu", ["bind", "-"], "").error(3);
    assert_eq!(state(&kernel), before);
}

#[test]
#[ignore = "needs root"]
fn a_failure_or_a_kill_leaves_what_can_be_undone() {
    let kernel = Kernel::start();
    let before = state(&kernel);
    let all = eight(&kernel);
    let names = all.join(" ");

    // The fourth of eight fails: its driver_override cannot be written.
    let attribute = format!("/sys/bus/pci/devices/{}/driver_override", all[3]);
    kernel.shell(&format!("mount --bind {attribute} {attribute}")).text();
    kernel.shell(&format!("mount -o remount,bind,ro {attribute}")).text();
    let error = kernel.shell(&format!("tdx-gpu bind {names}")).error(1);
    assert!(error["message"].as_str().unwrap().contains(&all[3]), "{error}");
    assert_eq!(error["left_behind"], json!([]));
    kernel.shell(&format!("umount {attribute}")).text();
    assert_eq!(state(&kernel), before, "{error}");

    // Killed at any moment.
    for after in [20, 60, 120, 200] {
        kernel.shell(&format!("timeout -s KILL 0.{after:03} tdx-gpu bind {names}; true")).text();
        gpu(&kernel, ["unbind", "--all"]).document();
        assert_eq!(state(&kernel), before, "killed after {after} ms");
    }
    // What a dead command left is named, and repaired by itself.
    let stale = format!(
        "cd /run/tdx/bound && sed -i 's/\"committed\": true/\"committed\": false/' {}",
        all[0]
    );
    gpu(&kernel, ["bind", &all[0]]).document();
    gpu(&kernel, ["bind", &all[1]]).document();
    kernel.shell(&stale).text();
    let error = gpu(&kernel, ["bind", &all[0]]).error(5);
    assert_eq!(error["code"], "RESERVED", "{error}");
    let repaired = gpu(&kernel, ["unbind", "--stale"]).document();
    assert_eq!(drivers(&repaired), [(all[0].clone(), json!("nvme"))]);
    gpu(&kernel, ["unbind", "--all"]).document();
    assert_eq!(state(&kernel), before);

    // Without a record: whatever driver wants it.
    kernel.bind(&all[0]);
    assert_eq!(gpu(&kernel, ["unbind", &all[0]]).item()["driver"], "nvme");
    assert_eq!(state(&kernel), before);
    // A record of a device that is gone, and one that nobody can read.
    gpu(&kernel, ["bind", &all[0]]).document();
    kernel.shell(&format!("echo 1 >/sys/bus/pci/devices/{}/remove", all[0])).text();
    assert_eq!(gpu(&kernel, ["unbind", "--all"]).item()["action"], "forget");
    kernel.shell("echo 1 >/sys/bus/pci/rescan; udevadm settle 2>/dev/null; sleep 1; true").text();
    gpu(&kernel, ["bind", &all[1]]).document();
    kernel.shell(&format!("echo '{{' >/run/tdx/bound/{}", all[1])).text();
    gpu(&kernel, ["unbind", &all[1]]).error(3);
    kernel.shell(&format!("rm /run/tdx/bound/{}", all[1])).text();
    gpu(&kernel, ["unbind", &all[1]]).document();

    // Someone's own override comes back.
    let own = format!("echo nvme >/sys/bus/pci/devices/{}/driver_override", all[2]);
    kernel.shell(&own).text();
    let kept = state(&kernel);
    let bound = gpu(&kernel, ["bind", &all[2]]).document();
    assert!(bound["warnings"][0].as_str().unwrap().contains("reserved for nvme"), "{bound:#}");
    gpu(&kernel, ["unbind", &all[2]]).document();
    assert_eq!(state(&kernel), kept);
}

/// What a reboot does to devices on VFIO: nobody remembers them, and `driver` has each again.
fn reboot(kernel: &Kernel, devices: &[(&str, &str)]) {
    let mut line = "set -e; rm -rf /run/tdx; \
        echo 65535 >/sys/module/vfio_iommu_type1/parameters/dma_entry_limit; "
        .to_owned();
    for (bdf, driver) in devices {
        let device = format!("/sys/bus/pci/devices/{bdf}");
        line += &format!("echo {bdf} >{device}/driver/unbind; echo >{device}/driver_override; ");
        if !driver.is_empty() {
            line += &format!("echo {bdf} >/sys/bus/pci/drivers/{driver}/bind; ");
        }
    }
    kernel.shell(&line).text();
}

#[test]
#[ignore = "needs root"]
fn what_is_persistent_is_bound_at_every_boot() {
    let kernel = Kernel::start();
    let before = state(&kernel);
    let nics = kernel.shell("tdx-iommu scan --driver e1000e --format name").text().to_owned();
    let nics: Vec<&str> = nics.lines().collect();
    let old = kernel.shell("tdx-iommu scan --driver e1000 --format name").text().to_owned();
    let old: Vec<&str> = old.lines().collect();
    let nvme = kernel.nvme("rig-0");
    let persisted = || gpu(&kernel, ["bind", "--persisted"]);
    let files = "cd /etc/tdx/bind.d && ls -A";
    let unit = "/etc/systemd/system/tdx-gpu-bind.service";

    // A plan writes nothing. Without a record there is nothing to do.
    let plan = gpu(&kernel, ["bind", nics[1], "--persist", "--dry-run"]).document();
    assert_eq!(plan["items"][0]["persistent"], true);
    assert_eq!(persisted().document()["changed"], false);
    assert_eq!(state(&kernel), before);

    // One that is bound first and recorded later, with all that is said of it; again: no change.
    gpu(&kernel, ["bind", nics[1]]).document();
    let item = gpu(&kernel, ["bind", nics[1], "--persist", "--memory", "1G"]).item();
    assert_eq!((&item["action"], &item["persistent"]), (&json!("persist"), &json!(true)));
    let again = gpu(&kernel, ["bind", nics[1], "--persist", "--memory", "1G"]).document();
    assert_eq!(again["changed"], false, "{again:#}");
    let item = gpu(&kernel, ["bind", nics[1]]).item();
    assert_eq!((&item["action"], &item["persistent"]), (&json!("none"), &json!(true)));
    gpu(&kernel, ["bind", old[0], "--whole-group", "--persist", "--memory", "1G"]).document();
    gpu(&kernel, ["bind", &nvme, "--persist", "--memory", "2G"]).document();
    let names = kernel.shell(files).text().to_owned();
    let mut wanted = [nics[1], old[0], old[1], &nvme];
    wanted.sort_unstable();
    assert_eq!(names, wanted.iter().map(|bdf| format!("{bdf}.json\n")).collect::<String>());
    kernel.shell("[ \"$(stat -c %a /etc/tdx/bind.d/*.json | sort -u)\" = 600 ]").text();
    // It is a unit without fault, and enabled, says systemd where it is installed.
    let verify = format!(
        "command -v systemd-analyze >/dev/null || exit 0; \
         systemd-analyze verify {unit} 2>&1 && systemctl is-enabled tdx-gpu-bind.service"
    );
    let said = kernel.shell(&verify);
    assert!(!said.text().contains("tdx-gpu-bind"), "{said:#?}");

    // After a reboot all are bound as they were; one has no driver yet.
    let bound = state(&kernel);
    reboot(
        &kernel,
        &[(nics[1], ""), (old[0], "e1000"), (old[1], "e1000"), (nvme.as_str(), "nvme")],
    );
    let items = persisted().document();
    assert_eq!(drivers(&items).len(), 4, "{items:#}");
    assert!(drivers(&items).iter().all(|(_, driver)| driver == "vfio-pci"));
    assert_eq!(state(&kernel), bound);
    assert_eq!(persisted().document()["changed"], false);
    let list = gpu(&kernel, ["list"]).document();
    let of =
        |bdf: &str| list["items"].as_array().unwrap().iter().find(|i| i["bdf"] == bdf).cloned();
    assert_eq!(of(nics[1]).unwrap()["persistent"], true);
    assert_eq!(of(nics[1]).unwrap()["previous_driver"], "e1000e");

    // Elsewhere than it was: a card was added, and the buses have other numbers.
    reboot(
        &kernel,
        &[(nics[1], "e1000e"), (old[0], "e1000"), (old[1], "e1000"), (nvme.as_str(), "nvme")],
    );
    let edit = |bdf: &str, from: &str, to: &str| {
        kernel.shell(&format!("sed -i 's/{from}/{to}/' /etc/tdx/bind.d/{bdf}.json")).text();
    };
    edit(nics[1], r#""bdf": ".*""#, r#""bdf": "0000:77:00.0""#);
    edit(nics[1], r#""path": ".*""#, r#""path": "0000_00_01.0-00_00.0""#);
    edit(&nvme, r#""bdf": ".*""#, r#""bdf": "0000:78:00.0""#);
    // Another card in a group of two, and a record that nobody can read: told, and the rest is bound.
    edit(old[1], r#""subsystem_device": .*,"#, r#""subsystem_device": 1,"#);
    kernel.shell("echo '{' >/etc/tdx/bind.d/x.json").text();
    let error = persisted().error(5);
    assert_eq!(error["code"], "IDENTITY_CHANGED", "{error}");
    assert!(error["message"].as_str().unwrap().contains(old[1]), "{error}");
    let causes = error["causes"].to_string();
    assert!(causes.contains("recorded: 8086:") && causes.contains("x.json is damaged"), "{causes}");
    assert!(causes.contains(&format!("{} cannot be given", old[0])), "{causes}");
    assert!(causes.contains("HOST_DRIVER"), "{causes}");
    assert_eq!(error["applied"], json!([format!("bound {}", nics[1]), format!("bound {nvme}")]));
    // Another card of the same kind.
    edit(nics[1], r#""serial": ".*""#, r#""serial": "0000000000000001""#);
    edit(nics[1], "0000:77:00.0", nics[1]);
    edit(nics[1], "0000_00_01.0-00_00.0", "0000_00_03.0-00_00.0");
    kernel.shell("rm /etc/tdx/bind.d/x.json").text();
    let error = persisted().error(5);
    assert!(error["causes"].to_string().contains("0000000000000001"), "{error}");
    // None at all.
    edit(nics[1], "0000_00_03.0-00_00.0", "0000_00_01.0-00_00.0");
    edit(old[1], r#""path": ".*""#, r#""path": "0000_00_01.1""#);
    persisted().error(4);

    // What is given back is forgotten, with the rest of its slot; the unit goes with the last.
    let plan = gpu(&kernel, ["unbind", &nvme, "--dry-run"]).item();
    assert_eq!(plan["was_persistent"], true);
    let item = gpu(&kernel, ["unbind", &nvme]).item();
    assert_eq!((&item["was_persistent"], &item["action"]), (&json!(true), &json!("unbind")));
    assert_eq!(kernel.shell(files).text().lines().count(), 3);
    let item = gpu(&kernel, ["unbind", old[0]]).item();
    assert_eq!((&item["was_persistent"], &item["action"]), (&json!(true), &json!("forget")));
    kernel.shell(&format!("test -e {unit}")).text();
    // A new card in the place of another is recorded in its stead.
    gpu(&kernel, ["bind", nics[1], "--persist"]).document();
    assert_eq!(kernel.shell(files).text(), format!("{}.json\n{}.json\n", nics[1], old[1]));
    gpu(&kernel, ["unbind", "--all"]).document();
    assert_eq!(state(&kernel), before);

    gpu(&kernel, ["bind", "--persisted", nics[1]]).error(2);
    gpu(&kernel, ["bind", "--persisted", "--persist"]).error(2);
    // The plan's forced codes are forced again, and no others.
    let card = kernel.shell("tdx-iommu scan --class 03 --format name").text().trim().to_owned();
    gpu(&kernel, ["bind", &card, "--persist", "--force", "CONSOLE_GPU", "--yes"]).document();
    kernel.shell("sed -i '/CONSOLE_GPU/d' /etc/tdx/bind.d/*").text();
    gpu(&kernel, ["unbind", "--all", "--dry-run"]).document();
    let audio = card.replace(".0", ".1");
    reboot(&kernel, &[(&card, "bochs-drm"), (&audio, "snd_hda_intel")]);
    assert_eq!(persisted().error(5)["code"], "CONSOLE_GPU");
    gpu(&kernel, ["unbind", "--all"]).document();
    assert_eq!(state(&kernel), before);
}

/// What [`STATE`] tells, for a test that runs on the machine.
fn state_here() -> BTreeMap<PathBuf, String> {
    let read = |path: PathBuf| fs::read_to_string(&path).ok().map(|text| (path, text));
    let link = |path: PathBuf| fs::read_link(&path).ok().map(|to| (path, to.display().to_string()));
    let names = |folder: &str| {
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).collect::<Vec<_>>()
    };
    let mut state = BTreeMap::new();
    for device in names("/sys/bus/pci/devices") {
        state.extend(link(device.join("driver")));
        state.extend(read(device.join("driver_override")));
    }
    state.extend(read("/sys/module/vfio_iommu_type1/parameters/dma_entry_limit".into()));
    let units = "/etc/systemd/system";
    let wants = format!("{units}/multi-user.target.wants");
    for folder in ["/run/tdx", "/run/tdx/bound", "/etc/tdx", "/etc/tdx/bind.d", units, &wants] {
        let files = names(folder).into_iter().filter(|path| !path.is_dir());
        state.extend(files.map(|path| (path, String::new())));
    }
    state
}

/// Runs one of the tools on the machine that the test runs on.
fn here(line: &str) -> Run {
    let (tool, arguments) = line.split_once(' ').unwrap();
    let mut command = Command::new(bin(tool));
    command.args(arguments.split(' '));
    Run::of(command, b"")
}

/// Kills a verb right before each step that it was seen to take, where the one before changed something:
/// the tool, but not the process that makes a write to sysfs for it. That write happens, as it may when
/// the tool is killed, and nothing can end one that the kernel does not finish.
fn kill_at_every_step(line: &str, prepare: impl Fn()) {
    const UNDO: &str = "tdx-gpu unbind --all";
    let began = Instant::now();
    let before = state_here();
    let prepare = || {
        // As after a boot.
        for folder in ["/run/tdx/bound", "/run/tdx", "/etc/tdx/bind.d", "/etc/tdx"] {
            fs::remove_dir(folder).ok();
        }
        prepare();
    };
    prepare();
    let first = state_here();
    let steps = walk_here(line, None);
    steps.run.document();
    let done = state_here();
    here(UNDO).document();
    assert_eq!(state_here(), before, "{line}, undisturbed");
    let idle = |step: &str| step.starts_with("lock ") || step.starts_with("flush ");
    let mut moments = moments(&steps.steps, true);
    let after_idle = |moment: &Moment| {
        let mut at = (0..steps.steps.len()).filter(|at| steps.steps[*at] == moment.step);
        at.nth(moment.nth - 1).is_some_and(|at| at > 0 && idle(&steps.steps[at - 1]))
    };
    moments.retain(|moment| !after_idle(moment));
    for moment in &moments {
        println!("{STEP}{}", moment.step);
    }
    if !is_full() {
        moments = of_each_kind(moments);
    }
    for moment in &moments {
        prepare();
        let walk = walk_here(line, Some((moment.clone(), Fate::Signal(SIGKILL))));
        assert!(walk.struck && walk.signal == Some(9), "{line}, {moment:?}: {walk:#?}");
        println!("{ROW}{}\t{}", moment.step, table::changes([&first, &state_here(), &done]));
        here(UNDO).document();
        assert_eq!(state_here(), before, "{line}, killed at {moment:?}: {walk:#?}");
    }
    assert!(steps.steps.len() > 20, "{steps:#?}");
    let (all, some) = (steps.steps.len(), moments.len());
    println!("{line}: {all} steps, {some} moments, {:?}", began.elapsed());
}

/// What a row of a table begins with, on its way out of the rig; and a step that the table has a row for.
const ROW: &str = "row\t";
const STEP: &str = "step\t";

/// Runs one test of this file in the rig: a tracer has to be on the machine of what it traces.
fn inside(title: &str, test: &str) {
    let kernel = Kernel::start();
    let devices = format!("{} {}", kernel.nvme("rig-0"), kernel.nvme("rig-1"));
    let run = kernel.this_test(&format!("DEVICES={devices}"), module_path!(), test);
    // Which disks the rig gives is of no interest.
    let text = devices.split(' ').fold(run.text().to_owned(), |text, bdf| text.replace(bdf, "BDF"));
    let rows = text.lines().filter_map(|line| line.strip_prefix(ROW)?.split_once('\t'));
    let row =
        |(step, left): (&str, &str)| Row { step: step.to_owned(), left: vec![left.to_owned()] };
    let rows: Vec<Row> = rows.map(row).collect();
    assert!(rows.len() > 10, "{run:#?}");
    if is_full() && table::update() {
        table::write_down(title, &["SIGKILL leaves"], &rows);
    } else {
        let steps: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix(STEP)).collect();
        table::check(title, &steps, &rows);
    }
    print!("{}", run.stdout);
}

#[test]
#[ignore = "needs root"]
fn bind_killed_at_any_step_leaves_what_unbind_repairs() {
    match std::env::var("DEVICES") {
        Err(_) => inside("tdx-gpu bind", "bind_killed_at_any_step_leaves_what_unbind_repairs"),
        Ok(devices) => {
            kill_at_every_step(&format!("tdx-gpu bind {devices} --memory 1G --persist"), || ());
        }
    }
}

#[test]
#[ignore = "needs root"]
fn unbind_killed_at_any_step_leaves_what_unbind_repairs() {
    match std::env::var("DEVICES") {
        Err(_) => inside("tdx-gpu unbind", "unbind_killed_at_any_step_leaves_what_unbind_repairs"),
        Ok(devices) => kill_at_every_step(&format!("tdx-gpu unbind {devices}"), || {
            here(&format!("tdx-gpu bind {devices} --memory 1G --persist")).document();
        }),
    }
}

#[test]
#[ignore = "needs root"]
fn a_host_without_an_iommu_says_so() {
    let kernel = Kernel::start_with("intel_iommu=off");
    let nvme = kernel.nvme("rig-0");
    let error = gpu(&kernel, ["bind", &nvme]).error(5);
    assert_eq!(error["code"], "NO_IOMMU", "{error}");
    assert_eq!(gpu(&kernel, ["check", &nvme]).status, Some(10));
}
