//! The tables of docs/reliability.md: a verb, the steps it takes, and what a kill there leaves.

#![allow(dead_code, reason = "every test file uses a part of it")]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::fmt::Write;
use std::path::PathBuf;
use std::sync::Mutex;

use crate::steps::{Moment, is_question};
use crate::support::repository;

/// A step at which a verb was stopped, and what came of it, by column.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) moment: Moment,
    pub(crate) left: Vec<String>,
}

/// Whether the tables are to be written anew.
pub(crate) fn update() -> bool {
    std::env::var_os("TDX_UPDATE").is_some()
}

/// Where the tables are.
pub(crate) fn page() -> PathBuf {
    repository().join("docs/reliability.md")
}

/// Puts a verb's table into the page, in place of the one there.
pub(crate) fn write_down(title: &str, columns: &[&str], rows: &[Row]) {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _one = ONE_AT_A_TIME.lock().unwrap();
    let text = std::fs::read_to_string(page()).unwrap();
    let head = format!("### {title}\n");
    let (above, rest) = text.split_once(&head).unwrap_or_else(|| panic!("no heading: {title}"));
    let below = rest.find("\n### ").map_or("", |at| &rest[at..]);
    let columns = [&["at"], columns].concat();
    let mut table =
        format!("\n| {} |\n{}|\n", columns.join(" | "), "|---".repeat(columns.len()));
    let both_ask = |a: &Row, b: &Row| is_question(&a.moment.step) && is_question(&b.moment.step);
    for rows in rows.chunk_by(|a, b| a.left == b.left && both_ask(a, b)) {
        let Moment { step, after, .. } = &rows[0].moment;
        let more = match rows.len() {
            1 if *after => ", sent".to_owned(),
            1 => String::new(),
            many => format!(" and {} more questions", many - 1),
        };
        writeln!(table, "| {step}{more} | {} |", rows[0].left.join(" | ")).unwrap();
    }
    std::fs::write(page(), format!("{above}{head}{table}{below}")).unwrap();
}
