//! Running programs in a guest through its agent. The guest controls every answer, and may not answer at all.

use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use common::cli::interrupt;
use common::libvirt::failure;
use common::{Error, Result};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::json;
use virt::domain::Domain;
use virt::error::Error as VirtError;
use virt::sys;

/// The commands of the agent that this module needs.
const NEEDED: [&str; 2] = ["guest-exec", "guest-exec-status"];

/// The most bytes of output that a program may print. libvirt returns an answer, in which the output is
/// base64, as a string of at most 4 MiB.
///
/// Source: libvirt `src/remote/remote_protocol.x`, `REMOTE_STRING_MAX`.
pub const MOST_OUTPUT: usize = 1 << 20;

/// The interval between two questions whether a program has ended.
const POLL: Duration = Duration::from_millis(200);

/// The agent of a running guest, asked until a point in time.
#[derive(Debug)]
pub struct GuestAgent<'d> {
    domain: &'d Domain,
    name: &'d str,
    timeout: Duration,
    end: Instant,
}

/// The result of a program in a guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exit {
    /// The exit status; `None` if a signal ended the program.
    pub status: Option<i32>,
    /// Standard output.
    pub stdout: Vec<u8>,
    /// Standard error.
    pub stderr: String,
}

impl<'d> GuestAgent<'d> {
    /// Returns the agent of a domain. All its calls together take at most `timeout`.
    pub fn new(domain: &'d Domain, name: &'d str, timeout: Duration) -> Self {
        Self { domain, name, timeout, end: Instant::now() + timeout }
    }

    /// Fails unless the agent answers and may run programs.
    ///
    /// Errors: `unsupported` if the agent's configuration blocks a command; those of the agent.
    pub fn check(&self) -> Result<()> {
        let info: Info = self.ask("guest-info", json!({}))?;
        match info.first_blocked() {
            None => Ok(()),
            Some(command) => Err(Error::unsupported(format!(
                "the guest agent of domain '{}' does not allow the command {command}",
                self.name
            ))
            .hint(
                "allow guest-exec and guest-exec-status in the guest and restart qemu-guest-agent; Fedora and RHEL \
                 block both in /etc/sysconfig/qemu-ga, by FILTER_RPC_ARGS, BLOCK_RPCS or BLACKLIST_RPC",
            )),
        }
    }

    /// Runs a script with `/bin/sh` in the guest, as the user of the agent, which is root. Returns when the script has
    /// ended.
    ///
    /// Errors: `failed` for output of more than [`MOST_OUTPUT`] bytes, if the time is up, or if the agent's answer
    /// violates the protocol; `conflict` if the guest or its agent stopped; `interrupted`. The script may run on after
    /// each of these errors.
    pub fn shell(&self, script: &str, argument: &str, input: &[u8]) -> Result<Exit> {
        let started: Started = self.ask(
            "guest-exec",
            json!({
                "path": "/bin/sh",
                "arg": ["-c", script, "sh", argument],
                "input-data": STANDARD.encode(input),
                "capture-output": true,
            }),
        )?;
        loop {
            let status: Status = self.ask("guest-exec-status", json!({ "pid": started.pid }))?;
            if status.exited {
                let exit = status.exit().ok_or_else(|| self.invalid_answer("guest-exec-status"))?;
                return bounded(exit, self.name);
            }
            interrupt::sleep(POLL)?;
        }
    }

    /// Asks the agent, for the rest of the time. libvirt may wait for an agent much longer, so the call is made in a
    /// detached thread, which ends with its call or with the process.
    fn ask<T: DeserializeOwned>(&self, command: &str, arguments: serde_json::Value) -> Result<T> {
        interrupt::check()?;
        let question = json!({ "execute": command, "arguments": arguments }).to_string();
        let left = self.end.saturating_duration_since(Instant::now());
        let seconds = i32::try_from(left.as_secs() + 1).unwrap_or(i32::MAX);
        let (sender, answers) = channel();
        let domain = self.domain.clone();
        let call = move || sender.send(domain.qemu_agent_command(&question, seconds, 0));
        thread::Builder::new()
            .spawn(call)
            .map_err(|error| Error::failed("cannot start a thread").because(error))?;
        let answer = loop {
            interrupt::check()?;
            match answers.recv_timeout(Duration::from_millis(20)) {
                Ok(answer) => break answer,
                Err(RecvTimeoutError::Timeout) if Instant::now() < self.end => {}
                Err(_) => return Err(self.timed_out()),
            }
        };
        let answer = answer.map_err(|cause| self.refused(cause, command))?;
        let answer = serde_json::from_str::<Answer<T>>(&answer);
        answer.map(|answer| answer.value).map_err(|_| self.invalid_answer(command))
    }

    fn timed_out(&self) -> Error {
        let (name, seconds) = (self.name, self.timeout.as_secs());
        Error::failed(format!(
            "the guest agent of domain '{name}' did not finish within {seconds} s"
        ))
        .hint("to wait longer, add --timeout SECONDS; in the guest, run systemctl status qemu-guest-agent; for a quote, run \
               systemctl status qgsd on the host")
    }

    /// The error for a call that libvirt refused. Source: libvirt `virErrorNumber`.
    fn refused(&self, cause: VirtError, command: &str) -> Error {
        match cause.code().to_raw() {
            sys::VIR_ERR_AGENT_UNRESPONSIVE | sys::VIR_ERR_AGENT_UNSYNCED => Error::conflict(
                format!("the guest agent of domain '{}' does not answer", self.name),
            )
            .because(failure(cause, format_args!("run {command}")))
            .hint("in the guest, run systemctl restart qemu-guest-agent"),
            _ => {
                failure(cause, format_args!("run {command} of the guest agent of '{}'", self.name))
            }
        }
    }

    fn invalid_answer(&self, command: &str) -> Error {
        let name = self.name;
        Error::failed(format!(
            "the guest agent of domain '{name}' answered {command} with an invalid document"
        ))
    }
}

#[derive(Deserialize)]
struct Answer<T> {
    #[serde(rename = "return")]
    value: T,
}

/// Source: QEMU guest agent protocol reference, `guest-info`.
#[derive(Deserialize)]
struct Info {
    supported_commands: Vec<Command>,
}

#[derive(Deserialize)]
struct Command {
    name: String,
    enabled: bool,
}

impl Info {
    fn first_blocked(&self) -> Option<&'static str> {
        let is_enabled = |needed: &str| {
            self.supported_commands.iter().any(|command| command.enabled && command.name == needed)
        };
        NEEDED.into_iter().find(|needed| !is_enabled(needed))
    }
}

/// Source: QEMU guest agent protocol reference, `guest-exec`.
#[derive(Deserialize)]
struct Started {
    pid: i64,
}

/// Source: QEMU guest agent protocol reference, `guest-exec-status`.
#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Status {
    exited: bool,
    exitcode: Option<i32>,
    #[serde(default)]
    out_data: String,
    #[serde(default)]
    err_data: String,
}

impl Status {
    /// Returns the result of a program that has ended; `None` if its output is not base64.
    fn exit(&self) -> Option<Exit> {
        let stderr = STANDARD.decode(&self.err_data).ok()?;
        Some(Exit {
            status: self.exitcode,
            stdout: STANDARD.decode(&self.out_data).ok()?,
            stderr: String::from_utf8_lossy(&stderr).trim().to_owned(),
        })
    }
}

/// Returns the result of a program, unless it printed too much.
///
/// Errors: `failed` for output of more than [`MOST_OUTPUT`] bytes.
fn bounded(exit: Exit, name: &str) -> Result<Exit> {
    match exit.stdout.len() {
        0..=MOST_OUTPUT => Ok(exit),
        size => Err(Error::failed(format!(
            "the guest agent of domain '{name}' returned {size} bytes of a program's output, expected at most \
             {MOST_OUTPUT}"
        ))
        .hint("do not trust the guest: its agent returned more than tdx-td asked for")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse<T: DeserializeOwned>(answer: &str) -> Option<T> {
        serde_json::from_str::<Answer<T>>(answer).ok().map(|answer| answer.value)
    }

    #[test]
    fn a_blocked_or_unknown_command_is_named() {
        let blocked = |commands: &str| {
            let info =
                format!(r#"{{"return":{{"version":"9","supported_commands":[{commands}]}}}}"#);
            parse::<Info>(&info).unwrap().first_blocked()
        };
        let exec = r#"{"name":"guest-exec","enabled":true,"success-response":true}"#;
        let status = r#"{"name":"guest-exec-status","enabled":true,"success-response":true}"#;
        assert_eq!(blocked(&format!("{exec},{status}")), None);
        assert_eq!(
            blocked(&format!("{},{status}", exec.replace("true", "false"))),
            Some(NEEDED[0])
        );
        assert_eq!(blocked(exec), Some(NEEDED[1]));
    }

    #[test]
    fn output_beyond_the_limit_is_refused_with_its_size() {
        let exit = |size| Exit { status: Some(0), stdout: vec![0; size], stderr: String::new() };
        assert_eq!(bounded(exit(MOST_OUTPUT), "web1").unwrap().stdout.len(), MOST_OUTPUT);
        let error = bounded(exit(MOST_OUTPUT + 1), "web1").unwrap_err();
        assert_eq!(
            error.message(),
            "the guest agent of domain 'web1' returned 1048577 bytes of a program's output, expected at most 1048576"
        );
    }

    #[test]
    fn the_result_of_a_program_is_read() {
        let read = |answer: &str| parse::<Status>(answer).and_then(|status| status.exit());
        let exit =
            read(r#"{"return":{"exited":true,"exitcode":3,"out-data":"AP8=","err-data":"bm8K"}}"#);
        let expected = Exit { status: Some(3), stdout: vec![0, 255], stderr: "no".to_owned() };
        assert_eq!(exit, Some(expected));
        let killed = read(r#"{"return":{"exited":true,"signal":9}}"#).unwrap();
        assert_eq!((killed.status, killed.stdout.len()), (None, 0));
        assert_eq!(read(r#"{"return":{"exited":true,"exitcode":0,"out-data":"?"}}"#), None);
        for invalid in [r#"{"return":{}}"#, r#"{"error":{}}"#, "[]", ""] {
            assert_eq!(read(invalid), None, "{invalid}");
        }
    }
}
