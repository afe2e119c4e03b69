//! The links between pages: each link has a target, and each page is linked.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::BTreeSet;
use std::path::{Component, Path, PathBuf};

use regex::Regex;

use crate::support::tools::repository;

/// The Markdown files of the repository, by their paths in it.
fn pages() -> BTreeSet<PathBuf> {
    let walk = walkdir::WalkDir::new(repository()).into_iter().filter_entry(|entry| {
        let name = entry.file_name().to_string_lossy();
        !name.starts_with('.') && name != "target"
    });
    let files = walk.map(|entry| entry.unwrap().into_path());
    let pages = files.filter(|file| file.extension().is_some_and(|name| name == "md"));
    pages.map(|page| page.strip_prefix(repository()).unwrap().to_owned()).collect()
}

fn read(page: &Path) -> String {
    std::fs::read_to_string(repository().join(page)).unwrap()
}

/// The text of a page without its blocks of code.
fn prose(page: &Path) -> String {
    let text = read(page);
    text.split("```").step_by(2).collect()
}

/// The repository's files that a page links to, each with the heading that the link names.
fn links(page: &Path) -> Vec<(PathBuf, Option<String>)> {
    let link = Regex::new(r#"(?:\]\(|src="|href=")([^)"\s]+)[)"]"#).unwrap();
    let text = prose(page);
    let targets = link.captures_iter(&text).map(|found| found[1].to_owned());
    let own = targets.filter(|target| !target.contains("://") && !target.starts_with("mailto:"));
    own.map(|target| {
        let (file, heading) = target.split_once('#').unwrap_or((&target, ""));
        let file = match file {
            "" => page.to_owned(),
            file => normal(&page.parent().unwrap().join(file)),
        };
        (file, (!heading.is_empty()).then(|| heading.to_owned()))
    })
    .collect()
}

/// A path without `.` and `..`.
fn normal(path: &Path) -> PathBuf {
    path.components().fold(PathBuf::new(), |mut path, part| {
        match part {
            Component::ParentDir => drop(path.pop()),
            Component::Normal(name) => path.push(name),
            _ => {}
        }
        path
    })
}

/// The anchors of a page's headings, as GitHub derives them.
fn anchors(page: &Path) -> BTreeSet<String> {
    let text = prose(page);
    let headings = text.lines().filter_map(|line| line.strip_prefix('#'));
    let kept = |c: &char| c.is_alphanumeric() || matches!(c, '-' | '_' | ' ');
    headings
        .map(|line| line.trim_start_matches('#').trim().to_lowercase())
        .map(|line| line.chars().filter(kept).collect::<String>().replace(' ', "-"))
        .collect()
}

#[test]
fn every_link_leads_to_a_file_and_a_heading() {
    for page in pages() {
        for (file, heading) in links(&page) {
            let shown = page.display();
            assert!(repository().join(&file).exists(), "{shown}: no {}", file.display());
            if let Some(heading) = heading {
                let is_there = anchors(&file).contains(&heading);
                assert!(is_there, "{shown}: {} has no heading #{heading}", file.display());
            }
        }
    }
}

/// The contents of the site that mdBook builds.
const SUMMARY: &str = "docs/SUMMARY.md";

/// The pages that are reached from a page by links.
fn reached_from(start: &str) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    let mut next = vec![PathBuf::from(start)];
    while let Some(page) = next.pop() {
        if !found.insert(page.clone()) {
            continue;
        }
        for (file, _) in links(&page) {
            if file.extension().is_some_and(|name| name == "md") {
                next.push(file);
            } else if repository().join(&file).is_dir() {
                // A link to a directory leads to all pages in it.
                next.extend(pages().into_iter().filter(|page| page.parent() == Some(&*file)));
            }
        }
    }
    found
}

#[test]
fn every_page_is_reached_from_the_readme() {
    let found = reached_from("README.md");
    let orphans: Vec<PathBuf> = pages().difference(&found).cloned().collect();
    assert_eq!(orphans, [Path::new(SUMMARY)], "no page links to these");
}

#[test]
fn every_page_below_docs_is_in_the_summary() {
    let listed: BTreeSet<PathBuf> =
        links(Path::new(SUMMARY)).into_iter().map(|link| link.0).collect();
    for page in pages().iter().filter(|page| page.starts_with("docs")) {
        let is_listed = listed.contains(page) || page.starts_with("docs/reference/verbs");
        assert!(is_listed || page.ends_with("SUMMARY.md"), "{SUMMARY} lacks {}", page.display());
    }
}
