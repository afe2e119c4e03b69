//! Tools that ask a question on a terminal.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::io::{Read, Write};
use std::process::{Child, Stdio};

use crate::support::{Rig, Run, bin};

/// A tool on a terminal of its own that has asked its question and waits for the answer.
#[derive(Debug)]
pub(crate) struct Question {
    child: Child,
    said: String,
    line: String,
}

impl Question {
    /// Runs a tool with the words of `line` inside the rig until it asks.
    #[track_caller]
    pub(crate) fn ask(rig: &Rig, tool: &str, line: &str) -> Self {
        // script(1) gives it the terminal and passes its status on.
        let mut command = rig.command("script");
        let tool = bin(tool);
        command.args(["-q", "-e", "-c", &format!("{} {line}", tool.display()), "/dev/null"]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut said = Vec::new();
        let mut byte = [0];
        while !said.ends_with(b"[y/N] ") {
            let read = child.stdout.as_mut().unwrap().read(&mut byte).unwrap();
            assert!(read > 0, "no question: {}", String::from_utf8_lossy(&said));
            said.push(byte[0]);
        }
        let said = String::from_utf8(said).unwrap();
        Self { child, said, line: line.to_owned() }
    }

    /// Answers and waits for the tool to end. Standard output and error are one on a terminal: both are
    /// the run's `stdout`.
    pub(crate) fn answer(mut self, answer: &str) -> Run {
        let mut terminal = self.child.stdin.take().unwrap();
        terminal.write_all(format!("{answer}\n").as_bytes()).unwrap();
        let mut rest = String::new();
        self.child.stdout.take().unwrap().read_to_string(&mut rest).unwrap();
        drop(terminal);
        let status = self.child.wait().unwrap().code();
        Run { line: self.line, status, stdout: self.said + &rest, stderr: String::new() }
    }
}
