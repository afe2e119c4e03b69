//! The files of `tdx-td evidence`: kills, failures and other processes at each step of their creation.

#![expect(clippy::print_stdout, reason = "the result of a program that a test runs")]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::fs;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::signal::Signal::SIGKILL;
use serde_json::{Value, json};
use tdx_td::evidence::directory::EvidenceDirectory;
use tempfile::TempDir;

use crate::support::quote;
use crate::support::steps::{Fate, Moment, Walk, moments, walk_here, walk_here_beside};

/// What comes before the path of the directory in the argument that makes this binary write evidence.
const INTO: &str = "evidence-into=";

const LOG: &[u8] = b"log";

fn sample() -> Vec<u8> {
    quote::quote_with(4, 1, [3; 64])
}

fn write(path: &Path) -> common::Result<bool> {
    EvidenceDirectory::new(path)?.write(&sample(), Some(LOG))
}

/// Writes evidence if an argument of this binary names a directory, and prints the result. Returns whether it did so.
fn is_program() -> bool {
    let path = std::env::args().find_map(|argument| Some(argument.strip_prefix(INTO)?.to_owned()));
    path.inspect(|path| match write(Path::new(path)) {
        Ok(changed) => println!("{}", json!({ "changed": changed })),
        Err(error) => println!("{}", serde_json::to_string(&error.to_document()).unwrap()),
    })
    .is_some()
}

/// A directory for evidence that does not exist, two levels below one that does.
struct Place {
    scratch: TempDir,
}

impl Place {
    fn new() -> Self {
        let scratch = tempfile::tempdir().unwrap();
        fs::write(scratch.path().join("kept"), "").unwrap();
        Self { scratch }
    }

    fn directory(&self) -> PathBuf {
        self.scratch.path().join("new/parent/evidence")
    }

    fn clear(&self) {
        let _ = fs::remove_dir_all(self.scratch.path().join("new"));
    }

    /// All paths below the scratch directory, sorted.
    fn paths(&self) -> Vec<String> {
        let entries = walkdir::WalkDir::new(self.scratch.path()).min_depth(1).sort_by_file_name();
        let paths = entries.into_iter().map(|entry| entry.unwrap().into_path());
        let below = |path: PathBuf| path.strip_prefix(self.scratch.path()).unwrap().to_owned();
        paths.map(|path| below(path).display().to_string()).collect()
    }

    /// The command line that runs this binary as a program that writes evidence.
    fn line(&self) -> String {
        let binary = std::env::current_exe().unwrap();
        let test = "evidence::evidence_killed_at_any_step_is_absent_or_complete";
        let options = "--exact --include-ignored --nocapture";
        let (binary, directory) = (binary.display(), self.directory());
        format!("{binary} {test} {options} {INTO}{}", directory.display())
    }

    /// Writes evidence in a process of its own. In this one, a program that another test starts would have a copy of the
    /// lock's descriptor until its execve(2).
    fn write(&self) -> Value {
        result(&walk_here(&self.line(), None))
    }

    /// The moments at which an undisturbed command changes something in the scratch directory.
    fn moments(&self) -> Vec<Moment> {
        let walk = walk_here(&self.line(), None);
        assert_eq!(result(&walk), json!({ "changed": true }), "{walk:#?}");
        self.clear();
        let scratch = self.scratch.path().display().to_string();
        let all = moments(&walk.steps, true).into_iter();
        let moments: Vec<_> = all.filter(|moment| moment.step.contains(&scratch)).collect();
        assert!(moments.len() > 10, "{:#?}", walk.steps);
        moments
    }
}

/// What the program printed between the lines of the test harness.
fn result(walk: &Walk) -> Value {
    let line = walk.run.stdout.lines().find_map(|line| line.find('{').map(|at| &line[at..]));
    serde_json::from_str(line.unwrap_or_else(|| panic!("{walk:#?}"))).unwrap()
}

#[test]
#[ignore = "needs root"]
fn evidence_killed_at_any_step_is_absent_or_complete() {
    if is_program() {
        return;
    }
    let place = Place::new();
    let directory = place.directory();
    let mut complete = 0;
    for moment in place.moments() {
        let walk = walk_here(&place.line(), Some((moment.clone(), Fate::Signal(SIGKILL))));
        assert!(walk.struck && walk.signal == Some(9), "{moment:?}: {walk:#?}");
        let is_complete = directory.join("quote.bin").exists();
        if is_complete {
            complete += 1;
            assert_eq!(fs::read(directory.join("quote.bin")).unwrap(), sample(), "{moment:?}");
            assert_eq!(fs::read(directory.join("ccel.bin")).unwrap(), LOG, "{moment:?}");
        }
        // The next run completes the evidence, and the one after it changes nothing.
        assert_eq!(place.write(), json!({ "changed": !is_complete }), "{moment:?}");
        assert_eq!(place.write(), json!({ "changed": false }), "{moment:?}");
        let files = ["ccel.bin", "quote.bin"].map(|name| format!("new/parent/evidence/{name}"));
        assert_eq!(place.paths()[4..], files, "{moment:?}");
        assert_eq!(fs::read(directory.join("quote.bin")).unwrap(), sample(), "{moment:?}");
        place.clear();
    }
    assert!(complete > 0, "no kill came after the quote was written");
}

#[test]
#[ignore = "needs root"]
fn evidence_that_fails_at_any_step_leaves_no_file_and_no_directory() {
    let place = Place::new();
    for moment in place.moments() {
        let walk = walk_here(&place.line(), Some((moment.clone(), Fate::Error(Errno::EIO))));
        assert!(walk.struck, "{moment:?}: {walk:#?}");
        let error = &result(&walk)["error"];
        assert_eq!(error["exit_code"], 1, "{moment:?}: {error}");
        assert_eq!(error["left_behind"], json!([]), "{moment:?}: {error}");
        assert_eq!(place.paths(), ["kept"], "{moment:?}");
    }
    // Directories that existed before the command are kept.
    fs::create_dir_all(place.scratch.path().join("new/parent")).unwrap();
    let mut moments = place.moments();
    moments.retain(|moment| moment.step.contains("quote.bin"));
    for moment in moments {
        fs::create_dir_all(place.scratch.path().join("new/parent")).unwrap();
        let walk = walk_here(&place.line(), Some((moment.clone(), Fate::Error(Errno::EIO))));
        assert!(walk.struck, "{moment:?}: {walk:#?}");
        assert_eq!(place.paths(), ["kept", "new", "new/parent"], "{moment:?}");
    }
}

#[test]
#[ignore = "needs root"]
fn evidence_is_written_where_the_file_system_cannot_rename_without_replacing() {
    let place = Place::new();
    let mut moments = place.moments();
    moments.retain(|moment| moment.step.starts_with("rename "));
    assert_eq!(moments.len(), 2, "{moments:?}");
    for moment in moments {
        let walk = walk_here(&place.line(), Some((moment, Fate::Error(Errno::EINVAL))));
        assert_eq!(result(&walk), json!({ "changed": true }), "{walk:#?}");
        assert_eq!(place.paths().len(), 6, "{:?}", place.paths());
        assert_eq!(fs::read(place.directory().join("quote.bin")).unwrap(), sample());
        place.clear();
    }
}

#[test]
#[ignore = "needs root"]
fn evidence_keeps_a_file_that_another_process_created_at_the_same_time() {
    let place = Place::new();
    let quote = place.directory().join("quote.bin");
    let mut moments = place.moments();
    moments.retain(|moment| moment.step.starts_with("rename ") && moment.step.contains("quote"));
    let act = || fs::write(&quote, "theirs").unwrap();
    let walk = walk_here_beside(&place.line(), moments.remove(0), &act);
    let error = &result(&walk)["error"];
    assert_eq!(error["exit_code"], 5, "{error}");
    assert!(error["message"].as_str().unwrap().contains("quote.bin exists"), "{error}");
    // The event log of this command is removed, and the directories that are not empty are reported.
    let left = ["new/parent/evidence", "new/parent", "new"];
    let left = left.map(|path| place.scratch.path().join(path).display().to_string());
    assert_eq!(error["left_behind"], json!(left), "{error}");
    assert_eq!(place.paths()[4..], ["new/parent/evidence/quote.bin"]);
    assert_eq!(fs::read(quote).unwrap(), b"theirs");
}
