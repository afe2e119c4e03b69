//! `tdx-gpu cc` on a server made of files, with a stand-in for NVIDIA's program. The stand-in prints and
//! fails as NVIDIA's gpu-admin-tools v2025.10.20 does; `tests/gpu/gpu_tools.rs` tests the real program.

#![expect(clippy::disallowed_methods, reason = "tests start programs as users do")]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::process::Command;

use nix::sys::signal::Signal::{SIGINT, SIGKILL};
use serde_json::{Value, json};

use crate::support::file_race::FileRace;
use crate::support::server::Server;
use crate::support::steps::{Fate, moments, walk_here};
use crate::support::table::{self, Row};
use crate::support::terminal;
use crate::support::tools;
use crate::support::wait;

fn actions(document: &Value) -> Vec<&str> {
    let items = document["items"].as_array().unwrap().iter();
    items.map(|item| item["action"].as_str().unwrap()).collect()
}

#[test]
fn modes_are_read_from_registers_without_any_program() {
    let server = Server::new();
    let unknown = server.cc("").document();
    assert_eq!(unknown["items"].as_array().unwrap().len(), 12);
    assert_eq!(unknown["items"][0]["cc_mode"], "unknown");
    // An H100 with CC on, and a switch with protected PCIe on. The registers are those that NVIDIA's program
    // reads.
    for (bdf, length, registers) in [
        (&server.gpus[0], 16 << 20, [(0x200bc, 0xff), (0x11_82cc, 1)]),
        (&server.switches[0], 32 << 20, [(0x660bc, 0xff), (0x28c50, 1)]),
    ] {
        let bar = format!("{}/resource0", server.tree.folder(bdf));
        let bar = File::create(server.tree.path(&bar)).unwrap();
        bar.set_len(length).unwrap();
        for (offset, value) in registers {
            bar.write_all_at(&u32::to_le_bytes(value), offset).unwrap();
        }
    }
    let gpu = server.cc(&server.gpus[0]).item();
    assert_eq!((&gpu["cc_mode"], &gpu["ppcie_mode"]), (&json!("on"), &json!("off")));
    let plan = server.cc(&format!("{} --set on --dry-run --gpu-tools /bin/false", server.gpus[0]));
    assert_eq!(plan.document()["changed"], false);
    let switch = server.cc(&server.switches[0]).item();
    assert_eq!((&switch["cc_mode"], &switch["ppcie_mode"]), (&Value::Null, &json!("on")));
    assert_eq!(server.calls(), [""; 0]);
}

#[test]
fn set_changes_each_mode_once() {
    let server = Server::new();
    let gpus = &server.gpus[..2];
    let before = server.modes();
    let plan = server.cc(&format!("{} --set on --dry-run --gpu-tools /bin/false", gpus.join(" ")));
    assert_eq!(actions(&plan.document()), ["set", "set"]);
    assert_eq!((server.modes(), server.calls()), (before.clone(), vec![]));
    for (mode, cc) in [("on", "on"), ("devtools", "devtools"), ("off", "off")] {
        let document = server.set(mode, gpus).document();
        assert_eq!(actions(&document), ["set", "set"], "{document:#}");
        for item in document["items"].as_array().unwrap() {
            assert_eq!((&item["cc_mode"], &item["ppcie_mode"]), (&json!(cc), &json!("off")));
            let output = item["output"].to_string();
            assert!(output.contains("was reset to apply the new CC mode"), "{output}");
        }
        let calls = server.calls();
        assert!(calls.contains(&format!("{} set CC {mode}", gpus[1])), "{calls:#?}");
        let again = server.set(mode, gpus).document();
        assert_eq!((&again["changed"], actions(&again)), (&json!(false), vec!["none", "none"]));
        assert!(server.calls().iter().all(|call| call.contains(" query ")));
    }
    assert_eq!(server.modes(), before);
    // Setting a mode repairs an invalid state.
    server.mode("cc", &gpus[0], "invalid-devtools-only-fix-by-setting-cc-mode");
    server.set("off", &gpus[..1]).document();
    assert_eq!(server.modes(), before);
}

#[test]
fn protected_pcie_is_set_only_on_the_whole_baseboard() {
    let server = Server::new();
    let board = [server.gpus.clone(), server.switches.clone()].concat();
    server.set("on", &server.gpus[..1]).document();
    for part in [&server.gpus[..1], &server.gpus[..], &board[1..]] {
        let error = server.set("ppcie", part).error(5);
        assert!(error["causes"][0].as_str().unwrap().starts_with("missing: "), "{error}");
    }
    server.calls();
    let document = server.set("ppcie", &board).document();
    assert_eq!(actions(&document), ["set"; 12]);
    let calls = server.calls();
    let at = |call: String| calls.iter().position(|made| *made == call).unwrap();
    let last_switch = at(format!("{} set PPCIe on", server.switches[3]));
    let first = &server.gpus[0];
    // A device can have only one of the two modes.
    assert!(last_switch < at(format!("{first} set CC off")), "{calls:#?}");
    assert!(at(format!("{first} set CC off")) < at(format!("{first} set PPCIe on")));
    assert_eq!(server.set("ppcie", &board).document()["changed"], false);
    server.set("off", &board).document();
    assert!(server.modes().lines().all(|line| line.ends_with(" off")), "{}", server.modes());
}

#[test]
fn a_failed_set_restores_the_former_modes() {
    for (fault, words) in [
        ("refuse", "A FW update is required"),
        ("traceback", "is in a bad state"),
        ("stay", "failed to switch to CC mode on, current mode is off"),
        ("silent", "found nothing"),
        ("lie", "was reset"),
    ] {
        let server = Server::new();
        let devices = &server.gpus[..3];
        server.set("devtools", &devices[..1]).document();
        let before = server.modes();
        server.mode("fault", &devices[2], fault);
        let error = server.set("on", devices).error(1);
        assert_eq!((server.modes(), &error["left_behind"]), (before, &json!([])), "{error}");
        let calls = server.calls();
        assert!(calls.contains(&format!("{} set CC devtools", devices[0])), "{fault}: {calls:#?}");
        let told = format!("{} {}", error["message"], error["causes"]);
        match fault {
            "silent" => assert!(
                told.contains("did not report the confidential-computing mode of"),
                "{told}"
            ),
            _ => assert!(told.contains(words), "{told}"),
        }
        assert!(told.contains(&devices[2]), "{told}");
    }
    // A mode that cannot be restored is named in the error.
    let server = Server::new();
    let devices = &server.gpus[..2];
    // The other mode is set off before this mode is refused, and cannot be restored either.
    server.mode("ppcie", &devices[1], "on");
    server.mode("fault", &devices[1], "refuse");
    let error = server.set("on", devices).error(1);
    let unset = format!("the confidential-computing mode of {}", devices[1]);
    assert_eq!(error["left_behind"], json!([unset]), "{error}");
}

/// The firmware of some H100s lacks protected PCIe: setting it off fails, although it is off.
#[test]
fn only_modes_that_differ_are_set() {
    let server = Server::new();
    let (gpu, other) = (server.gpus[0].as_str(), server.gpus[1].as_str());
    server.mode("fault", gpu, "no-ppcie");
    server.mode("fault", other, "mute-ppcie");
    let before = server.modes();
    for (mode, device, warnings) in
        [("on", gpu, 0), ("off", gpu, 0), ("on", other, 1), ("off", other, 1)]
    {
        let document = server.set(mode, &[device.to_owned()]).document();
        let item = &document["items"][0];
        assert_eq!(
            (&item["action"], &item["cc_mode"]),
            (&json!("set"), &json!(mode)),
            "{document:#}"
        );
        let said = document["warnings"].as_array().unwrap();
        assert_eq!(said.len(), warnings, "{document:#}");
        for warning in said {
            let text = format!("cannot read the protected PCIe mode of {device}");
            assert!(warning.as_str().unwrap().starts_with(&text), "{document:#}");
            assert_eq!(item["ppcie_mode"], "unknown");
        }
        let calls = server.calls();
        assert!(!calls.iter().any(|call| call.contains("set PPCIe")), "{calls:#?}");
        assert_eq!(server.set(mode, &[device.to_owned()]).document()["changed"], false);
        server.calls();
    }
    assert_eq!(server.modes(), before);
    // A mode that the plan needs and that cannot be read is an error.
    server.mode("fault", &server.switches[0], "mute-ppcie");
    server.set("off", &server.switches[..1]).error(1);
}

#[test]
fn invalid_requests_are_refused_before_nvidias_program_is_called() {
    let server = Server::new();
    let gpu = server.gpus[0].clone();
    let one = std::slice::from_ref(&gpu);
    server.cc(&format!("{gpu} --set on")).error(5);
    server.cc("--set on --yes").error(2);
    server.cc(&format!("{gpu} --set maybe --yes")).error(2);
    server.cc(&format!("{gpu} --set on --yes --gpu-tools /nowhere")).error(4);
    let error = server.cc(&format!("{gpu} --set on --yes")).error(6);
    assert!(error["hint"].as_str().unwrap().contains("gpu-admin-tools"), "{error}");
    server.set("on", &["0000:a1:00.0".to_owned()]).error(5);
    server.set("on", &["0000:ff:00.0".to_owned()]).error(4);
    let driver = server.tree.folder(&gpu);
    server.tree.link(&format!("{driver}/driver"), "sys/bus/pci/drivers/nvidia");
    let error = server.set("on", one).error(5);
    assert!(error["hint"].as_str().unwrap().contains("tdx-gpu bind"), "{error}");
    assert_eq!(server.calls(), [""; 0]);
    // The program cannot be executed.
    let program = server.tools.path().join("nvidia_gpu_tools.py");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o644)).unwrap();
    server.set("on", &server.gpus[1..2]).error(1);
}

/// After a reboot a driver of the host has the GPU whose mode was set for a domain.
#[test]
fn unbind_restores_no_mode_under_a_driver_or_on_another_device() {
    let server = Server::new();
    let gpu = server.gpus[0].as_str();
    let driver = format!("{}/driver", server.tree.folder(gpu));
    let unbind = |more: &str| server.unbind(&format!("{gpu} {more}"));
    let device = server.tree.iommu(&format!("scan {gpu}")).item();
    let number = |key: &str| device[key].as_str().map(|hex| u32::from_str_radix(hex, 16).unwrap());
    let former = |id: Option<u32>| {
        let identity = json!({
            "vendor": 0x10de, "device": id, "subsystem_vendor": number("subsystem_vendor_id"),
            "subsystem_device": number("subsystem_device_id"), "class": number("class"),
            "serial": device["serial"],
        });
        let record = json!({
            "bdf": gpu, "identity": identity, "cc": "off", "ppcie": "off", "domain": "x", "committed": true
        });
        server.tree.file(&format!("var/lib/tdx/modes/{gpu}"), record.to_string());
    };
    former(Some(0x2330));
    server.mode("cc", gpu, "on");
    server.tree.link(&driver, "sys/bus/pci/drivers/nvidia");
    for more in ["--dry-run", ""] {
        let error = unbind(more).error(5);
        assert!(
            error["message"].as_str().unwrap().ends_with("is bound to the driver nvidia"),
            "{error}"
        );
    }
    assert_eq!(server.calls(), [""; 0]);
    fs::remove_file(server.tree.path(&driver)).unwrap();
    let item = unbind("").item();
    assert_eq!((&item["mode_restored"], &item["action"]), (&json!(true), &json!("restore")));
    assert!(server.calls().contains(&format!("{gpu} set CC off")));

    former(Some(0x2331));
    for more in ["--dry-run", ""] {
        let item = unbind(more).item();
        assert_eq!((&item["mode_restored"], &item["action"]), (&json!(false), &json!("forget")));
    }
    assert_eq!(server.calls(), [""; 0]);
    assert_eq!(unbind("").document()["changed"], false);
}

/// `unbind --stale` restores a mode that a killed command has set partly, and the mode can be set again.
#[test]
#[ignore = "needs root"]
fn set_killed_at_any_step_leaves_modes_that_unbind_restores() {
    let server = Server::new();
    let gpus = &server.gpus[..2];
    // The first run creates the directories.
    server.set("on", gpus).document();
    server.set("off", gpus).document();
    let before = server.state();
    let (root, tools) = (server.tree.path(""), server.tools.path());
    let line = format!(
        "tdx-gpu cc {} --set on --yes --gpu-tools {}/nvidia_gpu_tools.py --sysroot {}",
        gpus.join(" "),
        tools.display(),
        root.display()
    );
    let undisturbed = walk_here(&line, None);
    undisturbed.run.document();
    let done = server.state();
    server.set("off", gpus).document();
    assert_eq!(server.state(), before, "undisturbed");
    let mut moments = moments(&undisturbed.steps, true);
    // Steps of the stand-in itself.
    let own = ["/calls", "cat: ", "start cat", ": print"];
    moments.retain(|moment| !own.iter().any(|word| moment.step.contains(word)));
    assert!(moments.len() > 15, "{:#?}", undisturbed.steps);
    let (mut rows, mut finished) = (Vec::new(), BTreeSet::new());
    for mut moment in moments {
        let walk = walk_here(&line, Some((moment.clone(), Fate::Signal(SIGKILL))));
        let when = format!("{moment:?}: {walk:#?}");
        assert!(walk.struck && walk.signal == Some(9), "{when}");
        let after = server.state();
        let left = table::changes([&before, &after, &done]);
        server.unbind("--stale").document();
        let put_back = table::changes([&before, &server.state(), &done]);
        // A mode that is set completely is kept.
        assert!(["nothing", "1 change", "all"].contains(&put_back.as_str()), "{when}");
        if finished.insert(after) || put_back != "nothing" {
            server.set("on", gpus).document();
            assert_eq!(server.state(), done, "set again, {when}");
            server.set("off", gpus).document();
        }
        assert_eq!(server.state(), before, "taken back, {when}");
        for (place, name) in [(root.as_path(), ""), (tools, "modes")] {
            let place = place.display().to_string();
            moment.step = moment.step.replace(place.trim_end_matches('/'), name);
        }
        rows.push(Row::new(&moment, vec![left, put_back]));
    }
    if table::update() {
        let columns = ["SIGKILL leaves", "then `tdx-gpu unbind --stale` leaves"];
        table::write_down("tdx-gpu cc", &columns, &rows);
    } else {
        let steps: Vec<&str> = rows.iter().map(|row| row.step.as_str()).collect();
        table::check("tdx-gpu cc", &steps, &rows);
    }
}

#[test]
fn an_interrupted_set_asks_nvidias_program_to_end_before_it_kills_it() {
    const PROGRAM: &str = r#"#!/bin/sh
state=${0%/*}
grep ^SigBlk /proc/self/status >"$state/mask"
trap 'echo asked >"$state/asked"; exit 1' TERM
: >"$state/started"
while :; do sleep 0.1; done
"#;
    let server = Server::new();
    let program = server.tools.path().join("nvidia_gpu_tools.py");
    fs::write(&program, PROGRAM).unwrap();
    let mut command = Command::new("env");
    command.arg("--default-signal").arg(tools::bin("tdx-gpu"));
    command.args(["cc", &server.gpus[0], "--set", "on", "--yes", "--gpu-tools"]).arg(&program);
    command.arg("--sysroot").arg(server.tree.path(""));
    let process = terminal::Process::start(command, "tdx-gpu");
    let started = server.tools.path().join("started");
    wait::wait_for("the program", || started.exists().then_some(()));
    process.signal(SIGINT);
    let (run, by) = process.end();
    assert_eq!(by, Some(SIGINT as i32), "{run:#?}");
    let file = |name: &str| fs::read_to_string(server.tools.path().join(name)).unwrap_or_default();
    assert_eq!(file("asked"), "asked\n", "it was killed at once");
    assert_eq!(file("mask"), "SigBlk:\t0000000000000000\n");
}

#[test]
#[ignore = "needs root"]
fn commands_that_set_modes_at_the_same_time_leave_the_result_of_one_order() {
    let server = Server::new();
    let program = server.tools.path().join("nvidia_gpu_tools.py");
    let (root, gpus) = (server.tree.path("").display().to_string(), server.gpus[..2].join(" "));
    let set = |mode: &str, gpus: &str| {
        let program = program.display();
        format!("tdx-gpu cc {gpus} --set {mode} --yes --gpu-tools {program} --sysroot {root}")
    };
    let (on, off, devtools) = (set("on", &gpus), set("off", &gpus), set("devtools", &gpus));
    let one = set("devtools", &server.gpus[1]);
    let stale = format!("tdx-gpu unbind --stale --sysroot {root}");
    let state = || server.state();
    for (before, commands) in [
        (&[][..], [&on, &on]),
        (&[], [&on, &devtools]),
        (&[], [&on, &one]),
        (&[], [&on, &stale]),
        (&[on.as_str()], [&off, &devtools]),
    ] {
        let commands = commands.map(String::as_str);
        FileRace { commands, before, undo: &off, state: &state }.run();
    }
}
