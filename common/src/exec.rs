//! Running other programs: no shell, a cleared environment, errors that name the command.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Output, Stdio};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::error::{Error, ErrorKind, Result};
use crate::{interrupt, log};

/// An external program and its arguments.
#[derive(Debug, Clone)]
pub struct Runner {
    program: OsString,
    arguments: Vec<OsString>,
    package: &'static str,
}

impl Runner {
    /// A call of `program`, found on PATH; `package` is where people get it.
    pub fn new(program: impl Into<OsString>, package: &'static str) -> Self {
        Self { program: program.into(), arguments: Vec::new(), package }
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<A: AsRef<OsStr>>(mut self, arguments: impl IntoIterator<Item = A>) -> Self {
        self.arguments.extend(arguments.into_iter().map(|a| a.as_ref().to_owned()));
        self
    }

    /// Runs it to its end and returns its standard output.
    ///
    /// The environment is PATH and `LC_ALL=C.UTF-8`; standard input is empty.
    /// Errors: `unsupported` when it is not installed; `command_failed` with the last lines of its
    /// standard error; `interrupted` when a signal came in, which ends the program, too.
    pub fn run(&self) -> Result<Vec<u8>> {
        self.run_for_all().map(|output| output.stdout)
    }

    /// The same, for programs that answer on standard error.
    pub fn run_for_all(&self) -> Result<Output> {
        self.checked(self.run_to_its_end()?)
    }

    /// The same for programs that judge: whether the answer is yes, status 0, or no, status `no`.
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

    /// Fails, with the last lines of its standard error, unless the program succeeded.
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

    /// Waits for the program's end, or ends it when a signal comes in.
    fn wait(&self, mut child: Child) -> Result<Output> {
        let stdout = child.stdout.take().map(read_all);
        let stderr = child.stderr.take().map(read_all);
        let mut pause = Duration::from_millis(1);
        let status = loop {
            match child.try_wait() {
                Ok(Some(status)) => break status,
                Ok(None) => {}
                Err(error) => return Err(self.cannot_start(error)),
            }
            if let Err(interrupted) = interrupt::sleep(pause) {
                let _ = child.kill();
                let _ = child.wait();
                return Err(interrupted);
            }
            pause = (pause * 2).min(Duration::from_millis(50));
        };
        let text = |reader: Option<JoinHandle<Vec<u8>>>| {
            reader.and_then(|reader| reader.join().ok()).unwrap_or_default()
        };
        Ok(Output { status, stdout: text(stdout), stderr: text(stderr) })
    }

    /// Becomes the program, with this process's environment and streams.
    ///
    /// Errors: only when it cannot be started.
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

fn read_all(mut stream: impl io::Read + Send + 'static) -> JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        // What was read before an error is still worth showing.
        let _ = stream.read_to_end(&mut bytes);
        bytes
    })
}

impl std::fmt::Display for Runner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.program.display())?;
        self.arguments.iter().try_for_each(|argument| write!(f, " {}", argument.display()))
    }
}
