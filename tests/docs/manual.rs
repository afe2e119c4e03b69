//! The manual: a complete page for each tool and each verb, without warnings of groff.

#![expect(clippy::disallowed_methods, reason = "tests start programs as users do")]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use crate::support::tools::{Run, TOOLS, bin, repository, verbs};

/// The manual pages, written into a directory.
fn pages() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let mut manual = Command::new(bin("manual"));
    manual.arg(folder.path()).arg("2026-11-21");
    assert_eq!(Run::of(manual, b"").text(), "");
    folder
}

fn names(folder: &Path) -> BTreeSet<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

/// The text that a reader sees of a page.
fn shown(page: &Path) -> String {
    let mut man = Command::new("man");
    man.args(["--warnings", "--no-hyphenation", "--local-file"]).arg(page).env("MANWIDTH", "100");
    let run = Run::of(man, b"");
    assert_eq!(run.stderr, "", "{run:#?}");
    run.text().to_owned()
}

#[test]
fn every_tool_and_every_verb_has_a_page() {
    let folder = pages();
    let mut wanted = BTreeSet::new();
    for name in TOOLS {
        let verbs = verbs(name, &[]);
        assert!(verbs.len() > 3, "{name}: {verbs:?}");
        wanted.insert(format!("{name}.1"));
        wanted.extend(verbs.iter().map(|verb| format!("{name}-{}.1", verb.join("-"))));
    }
    assert_eq!(names(folder.path()), wanted);
}

#[test]
fn pages_are_complete_and_refer_only_to_existing_pages() {
    let folder = pages();
    let names = names(folder.path());
    for name in &names {
        let page = shown(&folder.path().join(name));
        let titles: Vec<&str> =
            page.lines().filter(|line| line.starts_with(|c: char| c.is_uppercase())).collect();
        let wanted = [
            "NAME",
            "SYNOPSIS",
            "DESCRIPTION",
            "OPTIONS",
            "EXIT STATUS",
            "EXAMPLES",
            "ENVIRONMENT",
        ];
        let there = titles.iter().filter(|title| wanted.contains(title));
        assert!(there.eq(&wanted), "{name}: {titles:?}");
        assert!(titles.ends_with(&["FILES", "SEE ALSO"]), "{name}: {titles:?}");
        let examples = page.split("\nEXAMPLES\n").nth(1).unwrap().split("\nENV").next().unwrap();
        let about = name.trim_end_matches(".1").replace('-', " ").replacen(' ', "-", 1);
        assert!(examples.contains(&about), "{name}: no example has '{about}'\n{examples}");
        let references = page.split("\nSEE ALSO\n").nth(1).unwrap().split(',');
        for reference in references.filter_map(|text| text.split_once("(1)")) {
            let reference = reference.0.trim();
            let there = names.contains(&format!("{reference}.1"));
            assert!(there || reference == "virsh", "{name}: {reference}");
        }
    }
}

#[test]
fn manual_has_the_exit_codes_and_the_variables_of_the_reference() {
    let folder = pages();
    let read = |name: &str| std::fs::read_to_string(repository().join(name)).unwrap();
    let page = shown(&folder.path().join("tdx-td.1"));
    let codes = read("docs/reference/exit-codes.md");
    for status in ["0", "1", "2", "3", "4", "5", "6", "7"] {
        let start = format!("| {status} | ");
        let row = codes.lines().find(|line| line.starts_with(&start)).unwrap();
        let meaning = row.split('|').nth(3).unwrap().trim().replace('`', "");
        let page = page.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(page.contains(&format!(" {status} {meaning}")), "{status}: {page}");
    }
    let configuration = read("docs/reference/configuration.md");
    let rows = configuration.lines().filter_map(|line| line.split(" | ").nth(1));
    let variables: Vec<&str> = rows.filter(|cell| cell.starts_with("`TDX_")).collect();
    assert!(variables.len() > 5, "{variables:?}");
    for variable in variables {
        let variable = variable.trim_matches('`');
        assert!(page.contains(&format!("\n       {variable}\n")), "{variable}: {page}");
    }
    // Only the page of a check mentions exit status 10.
    assert!(!page.contains("its answer is no"), "{page}");
    for name in ["tdx-disk", "tdx-gpu-check", "tdx-iommu"] {
        assert!(shown(&folder.path().join(format!("{name}.1"))).contains("10     a check ran"));
    }
}
