//! The tables of docs/internals/reliability.md: a verb, the steps it takes, and what a kill there leaves.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::path::PathBuf;
use std::sync::Mutex;

use super::steps::{Moment, is_question};
use super::tools::repository;

/// A step at which a verb was stopped, and what the stop left, by column.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) step: String,
    pub(crate) left: Vec<String>,
}

impl Row {
    pub(crate) fn new(moment: &Moment, left: Vec<String>) -> Self {
        Self { step: label(moment), left }
    }
}

/// What a kill left, as the number of changed things, records included.
pub(crate) fn changes<K: Ord, V: PartialEq>([before, left, done]: [&BTreeMap<K, V>; 3]) -> String {
    let new = left.iter().filter(|(key, value)| before.get(key) != Some(value)).count();
    let gone = before.keys().filter(|key| !left.contains_key(key)).count();
    match new + gone {
        0 => "nothing".to_owned(),
        _ if left == done => "all".to_owned(),
        1 => "1 change".to_owned(),
        some => format!("{some} changes"),
    }
}

/// Whether the tables are to be written again.
pub(crate) fn update() -> bool {
    std::env::var_os("TDX_UPDATE").is_some()
}

/// The page with the tables.
pub(crate) fn page() -> PathBuf {
    repository().join("docs/internals/reliability.md")
}

/// The name of a row.
pub(crate) fn label(moment: &Moment) -> String {
    let sent = if moment.after { ", sent" } else { "" };
    format!("{}{sent}", moment.step)
}

/// The rows of a table of the page: the name of each row, and its other cells.
fn read(title: &str) -> Vec<(String, Vec<String>)> {
    let text = std::fs::read_to_string(page()).unwrap();
    let (_, rest) =
        text.split_once(&format!("### {title}\n")).unwrap_or_else(|| panic!("no heading: {title}"));
    let table = rest.split("\n### ").next().unwrap();
    let rows = table.lines().filter(|line| line.starts_with("| ")).skip(1);
    rows.map(|row| {
        let mut cells = row.trim_matches('|').split('|').map(|cell| cell.trim().to_owned());
        (cells.next().unwrap(), cells.collect())
    })
    .collect()
}

/// Fails unless the page has a row for each of these steps, in their order, and no other row. The rows of the
/// steps at which the verb was stopped must say in their first columns what the stop left.
///
/// The number of messages of a stream differs from run to run, so their rows are not compared.
#[track_caller]
pub(crate) fn check<S: AsRef<str>>(title: &str, steps: &[S], stopped: &[Row]) {
    let is_whole = |step: &str| !step.contains("virStreamSend");
    let seen: Vec<&str> = steps.iter().map(AsRef::as_ref).filter(|step| is_whole(step)).collect();
    let mut page = read(title);
    page.retain(|(step, _)| is_whole(step));
    let told: Vec<&str> = page.iter().map(|(step, _)| step.as_str()).collect();
    assert_eq!(seen, told, "the steps in the table of {title} are stale");
    let mut rest = page.iter();
    for row in stopped.iter().filter(|row| is_whole(&row.step)) {
        let is_same = |(step, told): &(String, Vec<String>)| {
            *step == row.step && told[..row.left.len()] == row.left
        };
        assert!(rest.any(is_same), "the table of {title} is stale: {row:#?}");
    }
}

/// Fails unless the page has rows for these steps and for no other.
///
/// For a verb that works on several devices in parallel: the order of its steps, and what is left at a step,
/// differ from run to run.
#[track_caller]
pub(crate) fn check_names(title: &str, steps: &[&str]) {
    let page = read(title);
    let told: BTreeSet<&str> = page.iter().map(|(step, _)| step.as_str()).collect();
    let seen: BTreeSet<&str> = steps.iter().copied().collect();
    assert_eq!(seen, told, "the steps in the table of {title} are stale");
}

/// Writes a verb's table into the page, in place of the former table.
pub(crate) fn write_down(title: &str, columns: &[&str], rows: &[Row]) {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _one = ONE_AT_A_TIME.lock().unwrap();
    let text = std::fs::read_to_string(page()).unwrap();
    let head = format!("### {title}\n");
    let (above, rest) = text.split_once(&head).unwrap_or_else(|| panic!("no heading: {title}"));
    let below = rest.find("\n### ").map_or("", |at| &rest[at..]);
    let columns = [&["at"], columns].concat();
    let mut table = format!("\n| {} |\n{}|\n", columns.join(" | "), "|---".repeat(columns.len()));
    let both_ask = |a: &Row, b: &Row| is_question(&a.step) && is_question(&b.step);
    for rows in rows.chunk_by(|a, b| a.left == b.left && both_ask(a, b)) {
        let more = match rows.len() {
            1 => String::new(),
            many => format!(" and {} more questions", many - 1),
        };
        writeln!(table, "| {}{more} | {} |", rows[0].step, rows[0].left.join(" | ")).unwrap();
    }
    std::fs::write(page(), format!("{above}{head}{table}{below}")).unwrap();
}
