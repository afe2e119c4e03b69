//! The generated pages: the help of every verb, all messages, and the picture of the README.

#![expect(clippy::disallowed_methods, reason = "tests start programs as users do")]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use crate::support::tools::{Run, bin, repository};

/// The names of the files below a directory.
fn names(directory: &Path) -> BTreeSet<String> {
    let entries = std::fs::read_dir(directory).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn reference_pages_are_what_make_reference_writes() {
    let fresh = tempfile::tempdir().unwrap();
    let mut manual = Command::new(bin("manual"));
    manual.arg("--reference").arg(repository()).arg(fresh.path());
    assert_eq!(Run::of(manual, b"").text(), "");
    let kept = repository().join("docs/reference");
    assert_eq!(names(&kept.join("verbs")), names(&fresh.path().join("verbs")));
    let verbs = names(&fresh.path().join("verbs")).into_iter().map(|name| format!("verbs/{name}"));
    for page in verbs.chain(["messages.md".to_owned()]) {
        let read = |directory: &Path| std::fs::read_to_string(directory.join(&page)).unwrap();
        let is_same = read(&kept) == read(fresh.path());
        assert!(is_same, "docs/reference/{page} is stale: run make reference");
    }
}

#[test]
fn picture_of_the_readme_is_current() {
    let mut picture = Command::new(repository().join("docs/picture"));
    picture.arg(repository().join("README.md"));
    let picture = Run::of(picture, b"").text().to_owned();
    let kept = std::fs::read_to_string(repository().join("docs/terminal.svg")).unwrap();
    assert!(kept == picture, "docs/terminal.svg is stale: run make reference");
}
