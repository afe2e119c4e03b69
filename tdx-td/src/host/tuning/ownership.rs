//! Updates the records of which scenario set which value, and of the previous values. Pure.

use common::{Error, Result};

use crate::host::tuning::persist;
use crate::host::tuning::plan::{DesiredValue, Options};
use crate::host::tuning::record::{Entry, Records};
use crate::host::tuning::tunable::Tunable;

/// Returns the records after `scenario` has set its values.
///
/// Errors: `conflict` if another scenario set another value, unless that may be replaced.
pub fn updated_records(
    wants: &[DesiredValue],
    options: Options,
    old: &Records,
    scenario: &str,
) -> Result<Records> {
    let mut new = Records { is_outdated: false, ..old.clone() };
    for want in wants {
        let is_file = matches!(want.tunable, Tunable::File(_));
        let others = |entry: &&Entry| {
            entry.tunable == want.tunable
                && entry.last_written() != want.value
                && entry.scenarios.iter().any(|by| by != scenario)
        };
        // Files of other scenarios are not compared, only the tunables that the files set.
        if let Some(entry) = old.all().find(others)
            && !is_file
            && !options.replace
        {
            return Err(taken_by_others(want, entry, scenario));
        }
        let (entries, before) = if want.tunable.lasts() {
            (&mut new.lasting, if is_file { "" } else { &want.now })
        } else {
            (&mut new.running, want.now.as_str())
        };
        let at_boot = !want.tunable.lasts()
            && old
                .lasting
                .iter()
                .any(|it| it.tunable == want.tunable && it.last_written() == want.now);
        add_entry(entries, want, scenario, (before, at_boot));
        if options.persist && !want.tunable.lasts() {
            add_entry(&mut new.lasting, want, scenario, ("", false));
        }
    }
    Ok(new)
}

/// Returns a message for each file of these tools that has lines of somebody else, which are kept.
pub fn edited_files(
    files: &persist::Persisted,
    wants: &[DesiredValue],
    old: &Records,
) -> Vec<String> {
    let describe = |(path, now): (&&'static str, &String)| {
        let tunable = Tunable::File((*path).to_owned());
        let want = wants.iter().find(|want| want.tunable == tunable);
        let foreign = persist::foreign_lines(now, &old.entry_for(&tunable)?.written_values);
        let stays = |line: &&str| {
            let stays = want.is_none_or(|want| want.value.lines().any(|other| other == *line));
            stays && !line.trim().is_empty()
        };
        let lines: Vec<&str> = foreign.lines().filter(stays).collect();
        let lines = (!lines.is_empty()).then(|| lines.join("; "))?;
        Some(format!("{path} keeps lines that tdx-td host tune did not write: {lines}"))
    };
    files.iter().filter_map(describe).collect()
}

/// Adds a value to a record. The record stores the first previous value, and whether a file of these tools set
/// that value at boot.
fn add_entry(
    entries: &mut Vec<Entry>,
    want: &DesiredValue,
    scenario: &str,
    (before, at_boot): (&str, bool),
) {
    let at = entries.iter().position(|entry| entry.tunable == want.tunable).unwrap_or_else(|| {
        entries.push(Entry {
            setting: want.setting.clone(),
            tunable: want.tunable.clone(),
            before: before.to_owned(),
            written_values: Vec::new(),
            scenarios: Vec::new(),
            at_boot,
        });
        entries.len() - 1
    });
    let entry = &mut entries[at];
    let value = match want.tunable {
        // Lines that somebody else added to the file are not recorded as written by tuning.
        Tunable::File(_) if !entry.written_values.is_empty() => {
            let foreign = persist::foreign_lines(&want.now, &entry.written_values);
            persist::without_lines(&want.value, &foreign)
        }
        _ => want.value.clone(),
    };
    if entry.written_values.last() != Some(&value) {
        entry.written_values.retain(|other| *other != value);
        entry.written_values.push(value);
        entry.scenarios.clear();
    }
    if !entry.scenarios.iter().any(|by| by == scenario) {
        entry.scenarios.push(scenario.to_owned());
    }
}

fn taken_by_others(want: &DesiredValue, entry: &Entry, scenario: &str) -> Error {
    let DesiredValue { setting, tunable, value, .. } = want;
    let others: Vec<&str> =
        entry.scenarios.iter().map(String::as_str).filter(|by| *by != scenario).collect();
    let (by, foreign) = (others.join(", "), entry.last_written());
    Error::conflict(format!(
        "cannot set {setting} to {value}: scenario {by} set {tunable} to {foreign}"
    ))
    .hint("run tdx-td host restore first, or add --replace to change the value")
}
