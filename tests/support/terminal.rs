//! A tool on a terminal, which asks and waits for an answer.

#![allow(dead_code, reason = "every test file uses a part of it")]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::io::{Read, Write};
use std::process::{Child, ChildStdout, Stdio};

use crate::support::{Rig, Run, bin};

/// A tool that has asked a question and waits.
pub(crate) struct Asked {
    child: Child,
    terminal: ChildStdout,
    document: std::path::PathBuf,
    line: String,
}

impl Asked {
    /// Starts a tool inside of the rig and waits for its question. Its document goes to a file, as with `>`.
    #[track_caller]
    pub(crate) fn start(rig: &Rig, tool: &str, line: &str) -> Self {
        let document = rig.scratch().join("document.json");
        let shell = format!("{} {line} >'{}'", bin(tool).display(), document.display());
        let mut command = rig.command("script");
        command.args(["--quiet", "--return", "--echo", "never", "--command", &shell, "/dev/null"]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        let mut terminal = child.stdout.take().unwrap();
        let mut said = Vec::new();
        while !said.ends_with(b"[y/N] ") {
            let mut byte = [0];
            let count = terminal.read(&mut byte).unwrap();
            assert!(count > 0, "{line} never asked: {}", String::from_utf8_lossy(&said));
            said.push(byte[0]);
        }
        Self { child, terminal, document, line: line.to_owned() }
    }

    /// Answers and waits for the end. Of what comes on the terminal then, a JSON error is the run's.
    pub(crate) fn answer(mut self, answer: &str) -> Run {
        let mut keyboard = self.child.stdin.take().unwrap();
        writeln!(keyboard, "{answer}").unwrap();
        let mut said = String::new();
        self.terminal.read_to_string(&mut said).unwrap();
        let status = self.child.wait().unwrap().code();
        drop(keyboard);
        let stdout = std::fs::read_to_string(&self.document).unwrap();
        let error = said.lines().filter(|line| line.starts_with('{'));
        Run { line: self.line, status, stdout, stderr: error.collect() }
    }
}
