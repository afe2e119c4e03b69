//! Helpers for the tests of `tdx-disk`: loop devices as disks, and guests with a console.

#![expect(clippy::print_stderr, reason = "a failing test shows the guest's console")]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use serde_json::Value;

use super::rig::Rig;
use super::tools::Run;
use super::wait::wait_for;

/// Runs `tdx-disk` in a rig with the words of `line`.
pub(crate) fn disk(rig: &Rig, line: &str) -> Run {
    rig.tool("tdx-disk", line.split(' '))
}

/// Creates a loop device of 64 MiB of zeros. Returns the device and the file that backs it.
#[track_caller]
pub(crate) fn blank(rig: &Rig, name: &str) -> (String, PathBuf) {
    let path = rig.scratch().join(name);
    std::fs::File::create(&path).unwrap().set_len(64 << 20).unwrap();
    (rig.loop_device(path.to_str().unwrap()), path)
}

/// The text in a file at an offset, up to the first zero byte.
pub(crate) fn text_at(path: &Path, offset: u64) -> String {
    let mut bytes = vec![0; 512];
    let length = std::fs::File::open(path).unwrap().read_at(&mut bytes, offset).unwrap();
    let text = bytes[..length].split(|byte| *byte == 0).next().unwrap();
    String::from_utf8_lossy(text).into_owned()
}

/// The codes that block the only item of a check.
#[track_caller]
pub(crate) fn blockers(run: &Run) -> Vec<String> {
    let document: Value = serde_json::from_str(&run.stdout).unwrap_or_else(|_| panic!("{run:#?}"));
    let codes = document["items"][0]["blockers"].as_array().unwrap().iter();
    let codes: Vec<String> = codes.map(|code| code.as_str().unwrap().to_owned()).collect();
    let status = if codes.is_empty() { 0 } else { 10 };
    assert_eq!(run.status, Some(status), "{run:#?}");
    codes
}

/// The console of a guest, which is read all the time.
#[derive(Debug)]
pub(crate) struct Console {
    tty: String,
    reader: Child,
    said: PathBuf,
}

impl Console {
    /// Opens the console of a guest that was just started.
    #[track_caller]
    pub(crate) fn open(rig: &Rig, name: &str) -> Self {
        let tty = rig.virsh(["ttyconsole", name]);
        let said = rig.scratch().join(format!("{name}.console"));
        let file = std::fs::File::create(&said).unwrap();
        let mut command = rig.command("sh");
        command.args(["-c", &format!("exec cat <>'{tty}'")]).stdin(Stdio::null());
        let reader = command.stdout(file).stderr(Stdio::null()).spawn().unwrap();
        Self { tty, reader, said }
    }

    /// Waits until the guest has printed something.
    #[track_caller]
    pub(crate) fn wait_for(&self, what: &str) {
        wait_for(what, || {
            let said = std::fs::read(&self.said).unwrap();
            String::from_utf8_lossy(&said).contains(what).then_some(())
        });
    }

    /// Types a command, and waits until the command has succeeded.
    #[track_caller]
    pub(crate) fn run(&self, rig: &Rig, command: &str) {
        // The echo of the typed command must not contain the word.
        let word = format!("did {}", std::fs::metadata(&self.said).unwrap().len());
        let (first, rest) = word.split_at(2);
        rig.shell(&format!("echo \"{command} && echo {first}''{rest}\" >'{}'", self.tty)).text();
        self.wait_for(&word);
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let said = std::fs::read(&self.said).unwrap_or_default();
            eprintln!("the guest said:\n{}", String::from_utf8_lossy(&said));
        }
        self.reader.kill().ok();
        self.reader.wait().ok();
    }
}
