//! Input of any size and shape: each number, name, file and table has a limit, which the error states.

#![expect(clippy::disallowed_methods, reason = "tests start programs as users do")]

use std::any::TypeId;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use clap::{Arg, ArgAction, CommandFactory};
use common::units::Size;
use serde_json::{Value, json};

use crate::support::rig::Rig;
use crate::support::td::{self, define, foreign, rig_for_booted_guests, rig_with_base, td};
use crate::support::tools::{Run, bin, tool, tool_with_input};

/// Values that no number accepts: above 64 bits, negative, or not a number.
const NO_NUMBERS: [&str; 6] =
    ["-1", "18446744073709551616", "99999999999999999999999999", "1ex", "", "0x"];

/// Values that some numbers accept and others refuse.
const EXTREMES: [&str; 5] = ["0", "1", "4294967295", "9223372036854775807", "18446744073709551615"];

/// The largest number of 64 bits, which exceeds the limit of every time, count and size.
const TOO_LARGE: &str = "18446744073709551615";

/// A verb's words, and the definition of its command line.
type Verb = (Vec<String>, clap::Command);

/// The verbs of a tool, with the verbs below other verbs.
fn verbs(above: &[String], command: &clap::Command) -> Vec<Verb> {
    let mut found = Vec::new();
    for verb in command.get_subcommands().filter(|verb| verb.get_name() != "help") {
        let words = [above, &[verb.get_name().to_owned()]].concat();
        match verb.has_subcommands() {
            true => found.extend(verbs(&words, verb)),
            false => found.push((words, verb.clone())),
        }
    }
    found
}

fn all_verbs() -> Vec<(&'static str, Verb)> {
    fn of<T: CommandFactory>(tool: &'static str) -> Vec<(&'static str, Verb)> {
        let mut command = T::command();
        command.build();
        verbs(&[], &command).into_iter().map(|verb| (tool, verb)).collect()
    }
    [
        of::<tdx_attest::Cli>("tdx-attest"),
        of::<tdx_disk::Cli>("tdx-disk"),
        of::<tdx_gpu::Cli>("tdx-gpu"),
        of::<tdx_iommu::Cli>("tdx-iommu"),
        of::<tdx_pool::Cli>("tdx-pool"),
        of::<tdx_td::Cli>("tdx-td"),
    ]
    .concat()
}

fn takes_a_value(arg: &Arg) -> bool {
    matches!(arg.get_action(), ArgAction::Set | ArgAction::Append)
}

fn is_a_number(arg: &Arg) -> bool {
    let of = arg.get_value_parser().type_id();
    let types = [
        TypeId::of::<u8>(),
        TypeId::of::<u16>(),
        TypeId::of::<u32>(),
        TypeId::of::<u64>(),
        TypeId::of::<usize>(),
        TypeId::of::<i32>(),
        TypeId::of::<i64>(),
        TypeId::of::<Size>(),
    ];
    types.iter().any(|number| of == *number)
}

/// A command line in which this argument has this value. Every other required argument has a value that is
/// not refused before it. No object exists that the command could change.
fn line(
    words: &[String],
    verb: &clap::Command,
    arg: &Arg,
    value: &str,
    root: &Path,
) -> Vec<String> {
    let mut line = words.to_owned();
    if verb.get_arguments().any(|arg| arg.get_id() == "dry_run") {
        line.push("--dry-run".to_owned());
    }
    match arg.get_id().as_str() {
        "timeout" if words == ["new"] => line.push("--wait=ip".to_owned()),
        "timeout" if words == ["hostdevs"] => line.push("--live".to_owned()),
        _ => {}
    }
    if verb.get_arguments().any(|arg| arg.get_id() == "connect") {
        line.push("--connect=qemu+unix:///system?socket=/none".to_owned());
    }
    if arg.get_id() != "sysroot" {
        line.push(format!("--sysroot={}", root.display()));
    }
    if let (Some(long), false) = (arg.get_long(), arg.is_positional()) {
        line.push(format!("--{long}={value}"));
    }
    let positionals = verb.get_positionals().filter(|other| {
        other.get_id() == arg.get_id() || other.is_required_set() || *other.get_id() == "names"
    });
    let value_of = |other: &Arg| match other.get_id() == arg.get_id() {
        true => value.to_owned(),
        false => "0000:01:00.0".to_owned(),
    };
    line.push("--".to_owned());
    line.extend(positionals.map(value_of));
    line
}

#[track_caller]
fn is_no_crash(run: &Run) {
    assert!(run.status.is_some_and(|status| status != 101), "{run:#?}");
    assert!(!run.stderr.contains("panicked"), "{run:#?}");
}

#[test]
fn every_verb_accepts_or_refuses_numbers_of_any_size() {
    let root = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(root.path().join("proc/self")).unwrap();
    std::fs::create_dir_all(root.path().join("sys")).unwrap();
    let mut numbers = 0;
    for (tool_name, (words, verb)) in all_verbs() {
        // virsh passes its words to another program; completions has no number.
        if ["virsh", "completions"].contains(&verb.get_name()) {
            continue;
        }
        for arg in verb.get_arguments().filter(|arg| takes_a_value(arg)) {
            let run = |value: &str| {
                let line = line(&words, &verb, arg, value, root.path());
                let run = tool(tool_name, line);
                is_no_crash(&run);
                run
            };
            let extremes: Vec<Run> = EXTREMES.map(run).into();
            if !is_a_number(arg) {
                continue;
            }
            numbers += 1;
            let largest = extremes.last().unwrap();
            assert_eq!(largest.status, Some(2), "{TOO_LARGE} is taken: {largest:#?}");
            for value in NO_NUMBERS {
                let run = run(value);
                assert_eq!(run.status, Some(2), "{value:?} is taken: {run:#?}");
                run.error(2);
            }
        }
    }
    // stop, delete, detach, hostdevs and new take times; new, render, overlay and gpu take sizes and counts.
    assert!(numbers >= 15, "only {numbers} options are known to be numbers");
}

#[test]
#[ignore = "needs root"]
fn a_timeout_of_a_year_ends_when_the_guest_answers() {
    let rig = rig_for_booted_guests();
    let year = "31536000";
    let new = td::new(&rig, &format!("--name x --wait ip --timeout {year}"));
    assert!(new.item()["ip"].is_string());
    assert_eq!(td(&rig, &format!("stop x --timeout {year}")).item()["action"], "stop");
    td(&rig, "start x").item();
    let deleted = td(&rig, &format!("delete x --yes --timeout {year}")).item();
    assert_eq!(deleted["action"], "delete");
    for line in ["stop x", "delete x --yes", "new -i guest.qcow2 --wait ip"] {
        td(&rig, &format!("{line} --timeout 31536001")).error(2);
    }
}

#[test]
fn sizes_of_scenarios_and_configurations_are_bounded() {
    for setting in [
        "guest.memory=16384P",
        "guest.memory=4503599627370497",
        "guest.memory_headroom=16383P",
        "guest.vcpus=4294967295",
        "guest.iothreads=4294967295",
        "storage.capacity=16383P",
    ] {
        let run = tool("tdx-td", ["scenario", "show", "td", "--set", setting]);
        is_no_crash(&run);
        let error = run.error(2).to_string();
        assert!(error.contains("at most") || error.contains("64 bits"), "{setting}: {error}");
    }
}

/// The error of a command that reads this document.
fn refused(line: &[&str], document: &str) -> Value {
    let connect = ["-c", "qemu+unix:///system?socket=/none"];
    let libvirt = !matches!(line[0], "tdx-attest" | "tdx-iommu" | "tdx-gpu");
    let arguments = line[1..].iter().chain(connect.iter().filter(|_| libvirt));
    let error = tool_with_input(line[0], arguments, document).error(3);
    assert!(error.to_string().len() < 40 << 10, "the message repeats all of the input");
    error
}

#[test]
fn items_with_empty_or_too_long_names_exit_3() {
    let huge = "x".repeat(5 << 20);
    for (name, says) in
        [("", "name is empty"), ("a\0b", "NUL byte"), (huge.as_str(), "longer than 255 bytes")]
    {
        for line in [
            &["tdx-td", "stop", "-"][..],
            &["tdx-td", "delete", "-", "--yes"],
            &["tdx-td", "show", "-"],
            &["tdx-pool", "delete", "-", "--yes"],
        ] {
            let error = refused(line, &json!({"name": name}).to_string());
            assert!(error["causes"].to_string().contains(says), "{line:?}: {}", error["causes"]);
        }
        let pool = json!({"name": "a", "pool": name}).to_string();
        refused(&["tdx-pool", "delete", "-", "--yes"], &pool);
        refused(&["tdx-td", "new", "--base", "-"], &pool);
        refused(&["tdx-td", "hostdevs", "-"], &json!({"vm": name, "devices": []}).to_string());
        if name.len() < 4096 {
            refused(&["tdx-disk", "check", "-"], &json!({"device": name}).to_string());
        }
    }
    let error = refused(&["tdx-disk", "check", "-"], &json!({"device": huge}).to_string());
    assert!(error["causes"].to_string().contains("longer than 4096 bytes"), "{error}");
    refused(&["tdx-iommu", "check", "-"], &json!({"bdf": huge}).to_string());
    let long = "x".repeat(256);
    for line in [["stop", ""], ["stop", &long], ["show", &long], ["delete", ""]] {
        tool("tdx-td", line).error(2);
    }
    tool("tdx-pool", ["delete", &long, "--yes"]).error(2);
    tool("tdx-pool", ["info", "--pool", &long]).error(2);
}

#[test]
fn input_that_is_too_large_is_refused_with_its_limit() {
    let mut endless = Command::new("sh");
    endless.args(["-c", "yes '[]' | \"$0\" check -", bin("tdx-iommu").to_str().unwrap()]);
    let error = Run::of(endless, b"").error(3);
    assert_eq!(error["message"], "standard input is larger than 256 MiB");

    let home = tempfile::tempdir().unwrap();
    std::fs::create_dir(home.path().join("tdx")).unwrap();
    std::fs::write(home.path().join("tdx/tdx.yaml"), "#".repeat((1 << 20) + 1)).unwrap();
    let mut list = Command::new(bin("tdx-pool"));
    list.arg("list").env("XDG_CONFIG_HOME", home.path());
    let error = Run::of(list, b"").error(3);
    assert!(
        error["message"].as_str().unwrap().ends_with("tdx.yaml is larger than 1 MiB"),
        "{error}"
    );
}

#[test]
fn a_path_that_cannot_be_resolved_exits_4() {
    let folder = tempfile::tempdir().unwrap();
    symlink("loop", folder.path().join("loop")).unwrap();
    std::fs::write(folder.path().join("file"), "").unwrap();
    for name in ["absent", "loop", "file/below", &"x".repeat(300)] {
        let path = folder.path().join(name);
        let resolve =
            tool("tdx-iommu", ["resolve".as_ref(), "--config".as_ref(), path.as_os_str()]);
        resolve.error(4);
        let show = tool("tdx-td", ["scenario".as_ref(), "show".as_ref(), path.as_os_str()]);
        show.error(4);
    }
    let resolve = |path: &Path| {
        tool("tdx-iommu", ["resolve".as_ref(), "--config".as_ref(), path.as_os_str()])
    };
    resolve(folder.path()).error(3);
    let mut check = Command::new("sh");
    check.args(["-c", "\"$0\" check - <\"$1\"", bin("tdx-iommu").to_str().unwrap()]);
    check.arg(folder.path());
    let error = Run::of(check, b"").error(3);
    assert!(error["message"].as_str().unwrap().starts_with("standard input is a directory"));
    let socket = folder.path().join("socket");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    resolve(&socket).error(3);
}

#[test]
fn a_table_shows_a_cell_that_is_longer_than_any_screen() {
    let home = tempfile::tempdir().unwrap();
    let scenarios = home.path().join("tdx/scenarios");
    std::fs::create_dir_all(&scenarios).unwrap();
    let description = "long ".repeat(20_000);
    let text = format!("description: {description}\nsecurity: [none]\n");
    std::fs::write(scenarios.join("mine.yaml"), text).unwrap();
    let mut list = Command::new(bin("tdx-td"));
    list.args(["scenario", "list", "--format", "table"]).env("XDG_CONFIG_HOME", home.path());
    let run = Run::of(list, b"");
    assert!(run.text().contains("long long"), "{:?} {}", run.status, run.stderr);
}

#[test]
#[ignore = "needs root"]
fn a_full_output_is_an_error_that_lists_what_was_done() {
    let rig = rig_with_base();
    let run = rig.shell(
        "head -c 1M /dev/urandom >a.img; tdx-pool ensure >/dev/null; \
        printf '\\125\\252' | dd of=a.img bs=1 seek=510 conv=notrunc status=none; \
        tdx-pool import a.img >/dev/full",
    );
    let error = run.error(1);
    assert_eq!(error["applied"], json!(["import a.img"]), "{error}");
    let run = rig.shell("tdx-pool delete a.img --dry-run >/dev/full");
    assert_eq!(run.error(1)["applied"], json!([]));
    let run = rig.shell("tdx-pool delete a.img --yes --format name >/dev/full");
    assert_eq!(run.error(1)["applied"], json!(["delete a.img"]));
}

#[test]
#[ignore = "needs root"]
fn import_over_the_file_size_limit_fails_and_leaves_nothing() {
    let rig = rig_with_base();
    rig.shell(
        "head -c 1M /dev/urandom >a.img; \
        printf '\\125\\252' | dd of=a.img bs=1 seek=510 conv=notrunc status=none",
    )
    .text();
    let before = rig.state();
    for limit in ["0", "100"] {
        let run = rig.shell(&format!("ulimit -f {limit}; tdx-pool import a.img"));
        assert!(run.error(1).to_string().contains("File too large"), "{run:#?}");
        assert_eq!(rig.state(), before);
    }
    let run = rig.shell("ulimit -f 0; tdx-pool list >list");
    assert!(run.error(1).to_string().contains("File too large"), "{run:#?}");
}

#[test]
#[ignore = "needs root"]
fn names_with_control_characters_are_escaped_outside_of_json() {
    let rig = Rig::start();
    define(&rig, &foreign("a\u{9b}2Jb", ""));
    for format in ["name", "table"] {
        let run = td(&rig, &format!("list --format {format}"));
        assert!(run.text().contains("a\\u{9b}2Jb"), "{run:#?}");
        assert!(!run.stdout.contains('\u{9b}'), "{run:#?}");
    }
    assert_eq!(td(&rig, "list").item()["name"], "a\u{9b}2Jb");
}

#[test]
#[ignore = "needs root"]
fn a_user_who_can_start_no_thread_gets_a_result_or_an_error() {
    let rig = Rig::start();
    for name in ["a", "b", "c"] {
        define(&rig, &foreign(name, ""));
    }
    let user = "setpriv --reuid nobody --regid nogroup --groups libvirt prlimit --nproc=1";
    let run = rig.shell(&format!("{user} tdx-td list -c qemu:///system"));
    assert_eq!(run.document()["items"].as_array().unwrap().len(), 3);
    // The user that QEMU runs as can copy images without libvirt's upload; the copy starts a thread.
    let qemu = rig.shell("getent passwd libvirt-qemu | cut -d: -f1").text().trim().to_owned();
    let user = format!("setpriv --reuid {qemu} --regid {qemu} --groups libvirt prlimit --nproc=1");
    rig.shell(&format!("mkdir -m 755 pool mine; chown {qemu} pool mine; chmod 711 .")).text();
    let pool = rig.scratch().join("pool");
    rig.shell(&format!("tdx-pool ensure --pool p --path {}", pool.display())).text();
    rig.shell("head -c 1M /dev/urandom >mine/a.img; \
        printf '\\125\\252' | dd of=mine/a.img bs=1 seek=510 conv=notrunc status=none; chmod 644 mine/a.img")
        .text();
    std::fs::set_permissions(rig.scratch().join("mine/a.img"), PermissionsExt::from_mode(0o644))
        .unwrap();
    let line = format!("{user} tdx-pool import mine/a.img --pool p -c qemu:///system");
    let error = rig.shell(&line).error(1);
    assert!(error.to_string().contains("cannot start a thread"), "{error}");
    assert_eq!(std::fs::read_dir(&pool).unwrap().count(), 0);
}
