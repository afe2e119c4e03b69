//! Running other programs: no shell, a cleared environment, errors that name the command.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use crate::error::{Error, ErrorKind, Result};
use crate::log;

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
    /// standard error.
    pub fn run(&self) -> Result<Vec<u8>> {
        log::detail(format_args!("run {self}"));
        let output = self
            .command()
            .env_clear()
            .envs(std::env::var_os("PATH").map(|path| ("PATH", path)))
            .env("LC_ALL", "C.UTF-8")
            .stdin(Stdio::null())
            .output()
            .map_err(|error| self.cannot_start(error))?;
        if output.status.success() {
            return Ok(output.stdout);
        }
        let stderr = String::from_utf8_lossy(&output.stderr);
        let tail: Vec<&str> = stderr.trim().lines().rev().take(5).collect();
        let tail: Vec<&str> = tail.into_iter().rev().collect();
        Err(Error::new(ErrorKind::CommandFailed, format!("{self} failed: {}", output.status))
            .because(tail.join("; ")))
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

impl std::fmt::Display for Runner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.program.display())?;
        self.arguments.iter().try_for_each(|argument| write!(f, " {}", argument.display()))
    }
}
