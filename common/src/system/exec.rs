//! Runs other programs without a shell and with a cleared environment. Errors name the command.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::cli::{interrupt, log};
use crate::error::{Error, ErrorKind, Result};
use crate::units::Size;

/// An external program and its arguments.
#[derive(Debug, Clone)]
pub struct Runner {
    program: OsString,
    arguments: Vec<OsString>,
    package: &'static str,
}

impl Runner {
    /// A call of `program`, which is looked up on PATH. `package` is the package that contains the program, for
    /// messages.
    pub fn new(program: impl Into<OsString>, package: &'static str) -> Self {
        Self { program: program.into(), arguments: Vec::new(), package }
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<A: AsRef<OsStr>>(mut self, arguments: impl IntoIterator<Item = A>) -> Self {
        self.arguments.extend(arguments.into_iter().map(|a| a.as_ref().to_owned()));
        self
    }

    /// Runs the program to its end and returns its standard output.
    ///
    /// The environment is PATH and `LC_ALL=C.UTF-8`. Standard input is empty.
    /// Errors: `unsupported` when the program is not installed; `command_failed` with the last lines of its standard
    /// error; `interrupted` when a signal was received. A signal ends the program with SIGTERM, and two seconds later
    /// with SIGKILL.
    pub fn run(&self) -> Result<Vec<u8>> {
        self.run_for_all().map(|output| output.stdout)
    }

    /// Runs the program as [`Runner::run`] does, and returns its standard output and standard error.
    pub fn run_for_all(&self) -> Result<Output> {
        self.checked(self.run_to_its_end()?)
    }

    /// Runs a program whose exit status is an answer. Returns true for status 0 and false for status `no`; any other
    /// status is an error as in [`Runner::run`].
    pub fn judge(&self, no: i32) -> Result<bool> {
        let output = self.run_to_its_end()?;
        match output.status.code() == Some(no) {
            true => Ok(false),
            false => self.checked(output).map(|_| true),
        }
    }

    fn run_to_its_end(&self) -> Result<Output> {
        log::detail(format_args!("run {self}"));
        let child = self
            .command()
            .env_clear()
            .envs(std::env::var_os("PATH").map(|path| ("PATH", path)))
            .env("LC_ALL", "C.UTF-8")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| self.cannot_start(error))?;
        self.wait(child)
    }

    /// Fails with the last lines of the program's standard error, unless the program succeeded.
    fn checked(&self, output: Output) -> Result<Output> {
        if output.status.success() {
            return Ok(output);
        }
        let stderr = String::from_utf8_lossy(&output.stderr);
        let tail: Vec<&str> = stderr.trim().lines().rev().take(5).collect();
        let tail: Vec<&str> = tail.into_iter().rev().collect();
        Err(Error::new(ErrorKind::CommandFailed, format!("{self} failed: {}", output.status))
            .because(tail.join("; ")))
    }

    /// Waits for the program's end, or ends the program when a signal is received.
    ///
    /// The output is what the pipes contain when the program ends, because a process that the program left behind may
    /// keep the pipes open.
    fn wait(&self, mut child: Child) -> Result<Output> {
        let mut stdout =
            Pipe::new(child.stdout.take()).map_err(|error| self.cannot_start(error))?;
        let mut stderr =
            Pipe::new(child.stderr.take()).map_err(|error| self.cannot_start(error))?;
        let mut pause = Duration::from_millis(1);
        let status = loop {
            let status = child.try_wait().map_err(|error| self.cannot_start(error))?;
            let fits = stdout.drain() && stderr.drain();
            if let Some(status) = status {
                break status;
            }
            if !fits {
                end(&mut child);
                return Err(Error::new(
                    ErrorKind::CommandFailed,
                    format!("{self} printed more than {}", Size(Pipe::LIMIT as u64)),
                ));
            }
            if let Err(interrupted) = interrupt::check() {
                end(&mut child);
                return Err(interrupted);
            }
            wait_for_output([&stdout, &stderr], pause);
            pause = (pause * 2).min(Duration::from_millis(50));
        };
        if !status.success() {
            // A terminal sends the signal to the program as well.
            interrupt::check()?;
        }
        Ok(Output { status, stdout: stdout.bytes, stderr: stderr.bytes })
    }

    /// Replaces this process by the program, with the same environment and streams (execve(2)).
    ///
    /// Returns only if the program cannot be started.
    pub fn exec(&self) -> Error {
        let error = self.command().exec();
        self.cannot_start(error)
    }

    #[expect(clippy::disallowed_methods, reason = "this is the one place that starts programs")]
    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.args(&self.arguments);
        command
    }

    fn cannot_start(&self, error: io::Error) -> Error {
        let program = self.program.display();
        match error.kind() {
            io::ErrorKind::NotFound => Error::unsupported(format!("{program} is not installed"))
                .hint(format!("install the package {}", self.package)),
            _ => {
                Error::new(ErrorKind::CommandFailed, format!("cannot run {program}")).because(error)
            }
        }
    }
}

/// The output of a program, read while the program runs.
struct Pipe {
    /// The pipe; none after its end was read.
    stream: Option<File>,
    bytes: Vec<u8>,
}

impl Pipe {
    /// The most output that is accepted. Unit: bytes.
    const LIMIT: usize = 64 << 20;

    fn new(stream: Option<impl Into<OwnedFd>>) -> io::Result<Self> {
        let stream = stream.map(|stream| File::from(stream.into()));
        if let Some(stream) = &stream {
            fcntl(stream, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        }
        Ok(Self { stream, bytes: Vec::new() })
    }

    /// Reads the available output without waiting for more. Returns false when the output exceeds the limit.
    fn drain(&mut self) -> bool {
        let mut piece = [0; 8192];
        while let Some(stream) = &mut self.stream {
            match stream.read(&mut piece) {
                Ok(length @ 1..) if self.bytes.len() + length > Self::LIMIT => return false,
                Ok(length @ 1..) => self.bytes.extend_from_slice(&piece[..length]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // The output that was read before an error is kept for the message.
                Ok(0) | Err(_) => self.stream = None,
            }
        }
        true
    }
}

/// Waits, for at most `pause`, until a pipe has output or is closed.
fn wait_for_output(pipes: [&Pipe; 2], pause: Duration) {
    let streams = pipes.into_iter().filter_map(|pipe| pipe.stream.as_ref());
    let mut wanted: Vec<PollFd<'_>> =
        streams.map(|stream| PollFd::new(stream.as_fd(), PollFlags::POLLIN)).collect();
    // If the wait is interrupted or fails, the caller checks the pipes anyway.
    let _ = poll(&mut wanted, PollTimeout::try_from(pause).unwrap_or(PollTimeout::ZERO));
}

/// How long a program may take to end after SIGTERM.
const GRACE: Duration = Duration::from_secs(2);

/// Sends a program SIGTERM, and SIGKILL if it has not ended after [`GRACE`].
fn end(child: &mut Child) {
    let process = i32::try_from(child.id()).map(Pid::from_raw);
    let asked = process.is_ok_and(|process| kill(process, Signal::SIGTERM).is_ok());
    let began = Instant::now();
    while asked && began.elapsed() < GRACE {
        match child.try_wait() {
            Ok(None) => std::thread::sleep(Duration::from_millis(5)),
            Ok(Some(_)) | Err(_) => return,
        }
    }
    let _ = child.kill();
    let _ = child.wait();
}

impl std::fmt::Display for Runner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.program.display())?;
        self.arguments.iter().try_for_each(|argument| write!(f, " {}", argument.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Runner {
        Runner::new("sh", "dash").args(["-c", script])
    }

    #[test]
    fn run_does_not_wait_for_a_process_that_keeps_the_pipes_open() {
        let output = shell("sleep 300 & echo $!; echo told >&2").run_for_all().unwrap();
        let process = String::from_utf8(output.stdout).unwrap().trim().parse().map(Pid::from_raw);
        // It ran until now, so nobody waited for its end.
        kill(process.unwrap(), Signal::SIGKILL).unwrap();
        assert_eq!(output.stderr, b"told\n");
    }

    #[test]
    fn run_returns_all_output_of_a_program() {
        let output = shell("head -c 3000000 /dev/zero; head -c 2000000 /dev/zero >&2");
        let output = output.run_for_all().unwrap();
        assert_eq!((output.stdout.len(), output.stderr.len()), (3_000_000, 2_000_000));
        let error = shell("exec cat /dev/zero").run().unwrap_err();
        assert!(error.message().ends_with("printed more than 64 MiB"), "{error}");
    }
}
