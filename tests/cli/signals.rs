//! Signals: Ctrl-C ends a tool while it waits, and a second signal kills it.

#![expect(clippy::disallowed_methods, reason = "tests start programs as users do")]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::ffi::OsStr;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sys::signal::Signal::{self, SIGHUP, SIGINT, SIGTERM};
use nix::unistd::Pid;

use crate::support::rig::Rig;
use crate::support::td::{define, foreign, rig_with_base, td, words};
use crate::support::terminal::{Process, Terminal};
use crate::support::tools::bin;
use crate::support::wait::wait_for;

/// A tool on this machine, with the default action for every signal.
fn command(tool: &str) -> Command {
    let mut command = Command::new("env");
    command.env_clear().arg("--default-signal").arg(bin(tool)).stdin(Stdio::null());
    command
}

#[test]
fn one_signal_ends_a_command_if_libvirt_never_answers() {
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("image.raw");
    std::fs::write(&image, [0; 512]).unwrap();
    let config = folder.path().join("passthrough.yaml");
    std::fs::write(&config, "vms: []\n").unwrap();
    let (image, config) = (image.display(), config.display());
    for (line, signal) in [
        ("tdx-td list".to_owned(), SIGINT),
        ("tdx-td stop x".to_owned(), SIGINT),
        ("tdx-td start x".to_owned(), SIGTERM),
        ("tdx-td delete x --yes".to_owned(), SIGHUP),
        (format!("tdx-td new -i {image} --security none"), SIGINT),
        (format!("tdx-td overlay -i {image}"), SIGTERM),
        (format!("tdx-td hostdevs --config {config} -n"), SIGINT),
        ("tdx-pool ensure".to_owned(), SIGINT),
        (format!("tdx-pool import {image}"), SIGINT),
        ("tdx-pool delete x --yes".to_owned(), SIGTERM),
        ("tdx-disk detach x vda".to_owned(), SIGINT),
    ] {
        let socket = folder.path().join("socket");
        let listener = UnixListener::bind(&socket).unwrap();
        let (tool, arguments) = line.split_once(' ').unwrap();
        let mut command = command(tool);
        command.args(arguments.split(' '));
        command.arg(format!("--connect=qemu+unix:///system?socket={}", socket.display()));
        let process = Process::start(command, tool);
        let connection = listener.accept().unwrap();
        process.signal(signal);
        let (run, by) = process.end();
        assert_eq!(by, Some(signal as i32), "{run:#?}");
        assert_eq!(run.stdout, "", "{run:#?}");
        drop(connection);
        std::fs::remove_file(&socket).unwrap();
    }
}

#[test]
fn reading_a_named_pipe_ends_at_a_signal_or_at_the_end_of_the_pipe() {
    let folder = tempfile::tempdir().unwrap();
    let pipe = folder.path().join("pipe");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let start = || {
        let mut command = command("tdx-iommu");
        command.args(["resolve".as_ref(), "--config".as_ref(), pipe.as_os_str()]);
        Process::start(command, "tdx-iommu")
    };
    let process = start();
    wait_until_open(process.id(), &pipe);
    process.signal(SIGINT);
    let (run, by) = process.end();
    assert_eq!(by, Some(SIGINT as i32), "{run:#?}");
    let process = start();
    wait_until_open(process.id(), &pipe);
    std::fs::write(&pipe, "nonsense: 1\n").unwrap();
    let (run, _) = process.end();
    let error = run.error(3);
    assert!(error.to_string().contains("nonsense"), "the writer was not waited for: {error}");
}

fn wait_until_open(id: Pid, path: &Path) {
    wait_for("an open pipe", || {
        let files = std::fs::read_dir(format!("/proc/{id}/fd")).ok()?.flatten();
        let mut paths = files.filter_map(|file| std::fs::read_link(file.path()).ok());
        paths.any(|open| open == path).then_some(())
    });
}

/// Sends a signal repeatedly, as an impatient user does, until the process has ended.
#[track_caller]
fn insist(process: &mut Process, signal: Signal) {
    let id = process.id();
    let mut sent = std::time::Instant::now();
    nix::sys::signal::kill(id, signal).unwrap();
    wait_for("the end by a second signal", || {
        if sent.elapsed() > Duration::from_secs(1) {
            sent = std::time::Instant::now();
            nix::sys::signal::kill(id, signal).ok();
        }
        process.has_ended().then_some(())
    });
}

#[test]
#[ignore = "needs root"]
fn a_second_signal_kills_a_command_that_waits_for_libvirt() {
    let rig = Rig::start();
    define(&rig, &foreign("deaf", ""));
    rig.virsh(["start", "deaf"]);
    let mut command = rig.command(bin("tdx-td"));
    command.args(words("-v stop deaf --timeout 600"));
    let mut process = Process::start(command, "tdx-td");
    wait_for("the question to the guest", || {
        let log = rig.virsh(["domstate", "--reason", "deaf"]);
        (!log.is_empty() && is_guarded(process.id())).then_some(())
    });
    rig.shell("kill -STOP $(pidof libvirtd)").text();
    insist(&mut process, SIGINT);
    rig.shell("kill -CONT $(pidof libvirtd)").text();
    let (run, by) = process.end();
    assert_eq!(by, Some(SIGINT as i32), "{run:#?}");
    rig.virsh(["destroy", "deaf"]);
}

/// Whether the process notes SIGINT instead of dying of it. Source: proc_pid_status(5), `SigCgt`.
fn is_guarded(id: Pid) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{id}/status")).unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap_or("0");
    u64::from_str_radix(mask.trim(), 16).unwrap() & (1 << (SIGINT as u32 - 1)) != 0
}

/// Starts a tool in the rig, on a terminal of its own.
fn on_terminal<A: AsRef<OsStr>>(
    rig: &Rig,
    tool: &str,
    arguments: impl IntoIterator<Item = A>,
) -> Terminal {
    let mut command = rig.command(bin(tool));
    command.args(arguments);
    Terminal::start(command, tool)
}

#[test]
#[ignore = "needs root"]
fn a_prompt_ends_at_a_signal_or_the_end_of_input_and_only_yes_confirms() {
    let rig = Rig::start();
    define(&rig, &foreign("x", ""));
    let ask = || {
        let mut terminal = on_terminal(&rig, "tdx-td", words("delete x --foreign"));
        terminal.wait_for("delete x? [y/N] ");
        terminal
    };
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        for typed in ["", "y", "y\u{4}"] {
            let mut terminal = ask();
            terminal.press(typed);
            terminal.process.signal(signal);
            let (run, by) = terminal.end();
            // nsenter dies of the signal that killed its child.
            assert_eq!(by, Some(signal as i32), "{run:#?}");
        }
    }
    for (typed, status) in [("\u{4}", 5), ("n\n", 5), ("\n", 5), ("yes!\n", 5)] {
        let mut terminal = ask();
        terminal.press(typed);
        let (run, _) = terminal.end();
        assert_eq!(run.status, Some(status), "{typed:?}: {run:#?}");
        assert!(run.stderr.contains("not confirmed"), "{run:#?}");
    }
    assert_eq!(rig.virsh(["list", "--all", "--name"]), "x");
    let mut terminal = ask();
    terminal.press("YES\n");
    let (run, _) = terminal.end();
    assert_eq!(run.status, Some(0), "{run:#?}");
    assert_eq!(rig.virsh(["list", "--all", "--name"]), "");
}

#[test]
#[ignore = "needs root"]
fn a_prompt_for_a_passphrase_restores_the_echo_of_the_terminal() {
    let rig = rig_with_base();
    let before = rig.state();
    let line = "new --blank 1M --name x --security none --memory 64M --vcpus 1 \
        --set storage.encryption=on";
    let ask = || {
        let mut terminal = on_terminal(&rig, "tdx-td", line.split_whitespace());
        terminal.wait_for("passphrase for the guest's disk: ");
        terminal.wait_for_echo(false);
        terminal
    };
    for signal in [SIGINT, SIGTERM] {
        let mut terminal = ask();
        terminal.press("secre");
        terminal.process.signal(signal);
        terminal.wait_for_echo(true);
        let (run, by) = terminal.end();
        assert_eq!(by, Some(signal as i32), "{run:#?}");
    }
    let mut terminal = ask();
    terminal.press("\u{4}");
    terminal.wait_for_echo(true);
    let (run, _) = terminal.end();
    assert_eq!(run.status, Some(2), "{run:#?}");
    assert!(run.stderr.contains("end of input"), "{run:#?}");
    let mut terminal = ask();
    terminal.press(&format!("{}\n", "x".repeat(600)));
    terminal.wait_for("repeat the passphrase: ");
    terminal.press(&format!("{}\n", "x".repeat(600)));
    let (run, _) = terminal.end();
    assert!(run.stderr.contains("longer than 512 bytes"), "{run:#?}");
    assert!(!run.stderr.contains("xxx"), "what was typed was shown: {run:#?}");
    assert_eq!(rig.state(), before);
    assert_eq!(td(&rig, "list").document()["items"].as_array().unwrap().len(), 0);
}
