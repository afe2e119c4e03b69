//! Every test file is compiled: cargo silently leaves out a file that no manifest and no `mod` names.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use crate::support::tools::{repository, rust_files};

fn tests() -> PathBuf {
    fs::canonicalize(repository().join("tests")).unwrap()
}

/// The roots of the test binaries that the manifests declare.
fn declared_roots() -> Vec<PathBuf> {
    let crates = fs::read_dir(repository()).unwrap().map(|entry| entry.unwrap().path());
    let manifests = crates.filter_map(|path| fs::read_to_string(path.join("Cargo.toml")).ok());
    let lines: Vec<String> =
        manifests.flat_map(|text| text.lines().map(str::to_owned).collect::<Vec<_>>()).collect();
    let roots = lines.iter().filter_map(|line| line.strip_prefix("path = \"../tests/"));
    roots.map(|rest| tests().join(rest.trim_end_matches('"'))).collect()
}

/// A file and the files of its modules. A `#[path]` before `mod NAME {` or `mod NAME;` is followed.
fn add_modules(file: &Path, is_root: bool, found: &mut BTreeSet<PathBuf>) {
    let text = fs::read_to_string(file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
    assert!(found.insert(file.to_owned()), "{} is a module twice", file.display());
    let own = if is_root { file.parent().unwrap().to_owned() } else { file.with_extension("") };
    let (mut directory, mut attribute) = (own.clone(), None);
    for line in text.lines() {
        let words = line.trim().trim_start_matches("pub(crate) ");
        if let Some(path) = words.strip_prefix("#[path = \"") {
            attribute = Some(own.join(path.trim_end_matches("\"]")));
        } else if words.starts_with("mod ") && words.ends_with('{') {
            directory = attribute.take().unwrap_or_else(|| own.clone());
        } else if line == "}" {
            directory = own.clone();
        } else if let Some(name) =
            words.strip_prefix("mod ").and_then(|rest| rest.strip_suffix(';'))
        {
            let path = attribute.take().unwrap_or_else(|| directory.join(format!("{name}.rs")));
            let path =
                fs::canonicalize(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
            // Each binary has its own copy of what tests share.
            if !found.contains(&path) || !path.starts_with(tests().join("support")) {
                add_modules(&path, false, found);
            }
        }
    }
}

#[test]
fn every_test_file_is_a_module_of_a_declared_binary() {
    let roots = declared_roots();
    assert!(roots.len() > 2, "looked in the wrong directory");
    let mut compiled = BTreeSet::new();
    for root in roots {
        add_modules(&root, true, &mut compiled);
    }
    let files = rust_files(&tests());
    let orphans: Vec<_> = files.difference(&compiled).collect();
    assert!(orphans.is_empty(), "no test binary has these modules: {orphans:#?}");
}

#[test]
fn make_runs_every_test_binary() {
    let makefile = fs::read_to_string(repository().join("Makefile")).unwrap();
    for root in declared_roots() {
        let directory = root.parent().unwrap().file_name().unwrap().display();
        let suffix = if root.ends_with("rig.rs") { "_rig" } else { "" };
        assert!(makefile.contains(&format!("--test {directory}{suffix}")), "{}", root.display());
    }
}
