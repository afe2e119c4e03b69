//! Tools on a terminal of their own, which may ask, and tools that get signals.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::pty::openpty;
use nix::sys::signal::{Signal, kill};
use nix::sys::termios::{LocalFlags, tcgetattr};
use nix::unistd::Pid;

use super::rig::Rig;
use super::tools::{Run, bin};
use super::wait::{is_waiting, wait_for};

/// The longest time for something that usually takes a moment.
const LIMIT: Duration = Duration::from_secs(60);

/// A running program. It is killed if this value is dropped before the end of the program.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    line: String,
    name: String,
}

impl Process {
    /// Starts a command that finally runs the program `name`, for example through env(1) or nsenter(1).
    pub(crate) fn start(mut command: Command, name: &str) -> Self {
        let line = format!("{command:?}");
        let command = command.stdout(Stdio::piped()).stderr(Stdio::piped());
        Self { child: command.spawn().unwrap(), line, name: name.to_owned() }
    }

    /// The PID of the program itself.
    pub(crate) fn id(&self) -> Pid {
        let id = wait_for(&self.name, || find(self.child.id(), &self.name));
        Pid::from_raw(id.cast_signed())
    }

    /// Sends a signal to the program.
    pub(crate) fn signal(&self, signal: Signal) {
        kill(self.id(), signal).unwrap();
    }

    /// Waits until the program waits: for a lock, or before its next look.
    pub(crate) fn wait_until_waiting(&self) {
        let id = self.id().as_raw().unsigned_abs();
        wait_for("a process that waits", || is_waiting(id).then_some(()));
    }

    /// Whether the program has ended.
    pub(crate) fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// Waits until the program ends by itself. Returns the run and the signal that ended the program.
    #[track_caller]
    pub(crate) fn end(mut self) -> (Run, Option<i32>) {
        wait_for(&format!("the end of {}", self.line), || self.has_ended().then_some(()));
        let read = |stream: Option<&mut dyn Read>| {
            let mut bytes = Vec::new();
            stream.map(|stream| stream.read_to_end(&mut bytes));
            String::from_utf8_lossy(&bytes).into_owned()
        };
        let stdout = read(self.child.stdout.as_mut().map(|stream| stream as &mut dyn Read));
        let stderr = read(self.child.stderr.as_mut().map(|stream| stream as &mut dyn Read));
        let status = self.child.wait().unwrap();
        let run = Run { line: self.line.clone(), status: status.code(), stdout, stderr };
        (run, status.signal())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Some(id) = find(self.child.id(), &self.name) {
            kill(Pid::from_raw(id.cast_signed()), Signal::SIGKILL).ok();
        }
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// The PID of the process with this name among a process and its descendants.
fn find(id: u32, name: &str) -> Option<u32> {
    let command = std::fs::read_to_string(format!("/proc/{id}/comm")).ok()?;
    if command.trim_end() == name {
        return Some(id);
    }
    let children = std::fs::read_to_string(format!("/proc/{id}/task/{id}/children")).ok()?;
    children.split_whitespace().find_map(|child| find(child.parse().ok()?, name))
}

/// A program whose standard input and standard error are a terminal.
#[derive(Debug)]
pub(crate) struct Terminal {
    /// The program.
    pub(crate) process: Process,
    keyboard: File,
    end: OwnedFd,
    said: String,
}

impl Terminal {
    /// Starts a command on a new terminal.
    pub(crate) fn start(mut command: Command, name: &str) -> Self {
        let pty = openpty(None, None).unwrap();
        let end = || Stdio::from(pty.slave.try_clone().unwrap());
        fcntl(&pty.master, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
        let line = format!("{command:?}");
        command.stdin(end()).stderr(end()).stdout(Stdio::piped());
        let child = command.spawn().unwrap();
        Self {
            process: Process { child, line, name: name.to_owned() },
            keyboard: pty.master.into(),
            end: pty.slave,
            said: String::new(),
        }
    }

    /// Starts a tool with the words of `line` inside of the rig and waits for its prompt.
    #[track_caller]
    pub(crate) fn ask(rig: &Rig, tool: &str, line: &str) -> Self {
        let mut command = rig.command(bin(tool));
        command.args(line.split_whitespace());
        let mut terminal = Self::start(command, tool);
        terminal.wait_for("[y/N] ");
        terminal
    }

    /// Answers and waits for the end. Keeps only a JSON error of the output on the terminal.
    #[track_caller]
    pub(crate) fn answer(mut self, answer: &str) -> Run {
        self.press(&format!("{answer}\n"));
        let (run, _) = self.end();
        let error = run.stderr.lines().filter(|line| line.starts_with('{')).collect();
        Run { stderr: error, ..run }
    }

    /// Waits until the program has printed something.
    #[track_caller]
    pub(crate) fn wait_for(&mut self, what: &str) {
        wait_for(what, || {
            self.listen();
            self.said.contains(what).then_some(())
        });
    }

    /// Waits until the terminal shows typed characters, or does not.
    #[track_caller]
    pub(crate) fn wait_for_echo(&self, is_shown: bool) {
        wait_for("the terminal's mode", || (self.has_echo() == is_shown).then_some(()));
    }

    /// Whether the terminal shows typed characters.
    pub(crate) fn has_echo(&self) -> bool {
        tcgetattr(&self.end).unwrap().local_flags.contains(LocalFlags::ECHO)
    }

    /// Types these keys.
    pub(crate) fn press(&mut self, keys: &str) {
        self.keyboard.write_all(keys.as_bytes()).unwrap();
    }

    /// Waits for the end of the program. Standard error of the run is the output on the terminal.
    #[track_caller]
    pub(crate) fn end(mut self) -> (Run, Option<i32>) {
        wait_for(&format!("the end of {}", self.process.line), || {
            self.listen();
            self.process.has_ended().then_some(())
        });
        self.listen();
        let said = std::mem::take(&mut self.said);
        let (run, signal) = self.process.end();
        (Run { stderr: said, ..run }, signal)
    }

    fn listen(&mut self) {
        let mut bytes = [0; 4096];
        while let Ok(length @ 1..) = self.keyboard.read(&mut bytes) {
            self.said.push_str(&String::from_utf8_lossy(&bytes[..length]));
        }
    }
}
