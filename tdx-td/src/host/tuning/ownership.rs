//! Which scenario asks for what, and what there was before all of them. Pure.

use common::{Error, Result};

use crate::host::tuning::persist;
use crate::host::tuning::plan::{DesiredValue, Options};
use crate::host::tuning::record::{Entry, Records};
use crate::host::tuning::tunable::Tunable;

/// The records once `scenario` has what it wants.
///
/// Errors: `conflict` where another scenario wants something else, unless that may be replaced.
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
        // Files are not compared with those of other scenarios; the tunables that they set are.
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

/// A sentence for each file of ours that has lines of somebody else's, and keeps them.
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
        Some(format!("in {path} stays what tuning has not written: {lines}"))
    };
    files.iter().filter_map(describe).collect()
}

/// Puts a value into a record, which remembers the first one there ever was, and whether a file had set that.
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
        // Lines that somebody else has added to the file since are not recorded as written by tuning.
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
        "{setting} is {foreign} for scenario {by}: {tunable} cannot be {value}, too"
    ))
    .hint("tdx-td host restore ends that, --replace overrules it")
}
