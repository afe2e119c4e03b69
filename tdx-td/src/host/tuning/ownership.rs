//! Which scenario asks for what, and what there was before all of them. Pure.

use common::{Error, Result};

use super::persist;
use super::plan::{Options, Want};
use super::record::{Entry, Records};
use crate::host::tuning::tunable::Tunable;

/// The records once `scenario` has what it wants.
///
/// Errors: `conflict` where another scenario wants something else, unless that may be replaced.
pub fn records(wants: &[Want], options: Options, old: &Records, scenario: &str) -> Result<Records> {
    let mut new = Records { is_outdated: false, ..old.clone() };
    for want in wants {
        let is_file = matches!(want.knob, Tunable::File(_));
        let others = |entry: &&Entry| {
            entry.knob == want.knob
                && entry.wanted() != want.value
                && entry.by.iter().any(|by| by != scenario)
        };
        // What a file says, other settings tell of.
        if let Some(entry) = old.all().find(others)
            && !is_file
            && !options.replace
        {
            return Err(taken(want, entry, scenario));
        }
        let (entries, before) = match want.knob.lasts() {
            true => (&mut new.lasting, if is_file { "" } else { &want.now }),
            false => (&mut new.running, want.now.as_str()),
        };
        let at_boot = !want.knob.lasts()
            && old.lasting.iter().any(|it| it.knob == want.knob && it.wanted() == want.now);
        put(entries, want, scenario, (before, at_boot));
        if options.persist && !want.knob.lasts() {
            put(&mut new.lasting, want, scenario, ("", false));
        }
    }
    Ok(new)
}

/// A sentence for each file of ours that has lines of somebody else's, and keeps them.
pub fn edited(files: &persist::Persisted, wants: &[Want], old: &Records) -> Vec<String> {
    let told = |(path, now): (&&'static str, &String)| {
        let knob = Tunable::File((*path).to_owned());
        let want = wants.iter().find(|want| want.knob == knob);
        let theirs = persist::foreign(now, &old.of(&knob)?.ours);
        let stays = |line: &&str| {
            let stays = want.is_none_or(|want| want.value.lines().any(|other| other == *line));
            stays && !line.trim().is_empty()
        };
        let lines: Vec<&str> = theirs.lines().filter(stays).collect();
        let lines = (!lines.is_empty()).then(|| lines.join("; "))?;
        Some(format!("in {path} stays what tuning has not written: {lines}"))
    };
    files.iter().filter_map(told).collect()
}

/// Puts a value into a record, which remembers the first one there ever was, and whether a file had set that.
fn put(entries: &mut Vec<Entry>, want: &Want, scenario: &str, (before, at_boot): (&str, bool)) {
    let at = entries.iter().position(|entry| entry.knob == want.knob).unwrap_or_else(|| {
        entries.push(Entry {
            setting: want.setting.clone(),
            knob: want.knob.clone(),
            before: before.to_owned(),
            ours: Vec::new(),
            by: Vec::new(),
            at_boot,
        });
        entries.len() - 1
    });
    let entry = &mut entries[at];
    let value = match want.knob {
        // What somebody has added since stays theirs.
        Tunable::File(_) if !entry.ours.is_empty() => {
            let theirs = persist::foreign(&want.now, &entry.ours);
            persist::without(&want.value, &theirs)
        }
        _ => want.value.clone(),
    };
    if entry.ours.last() != Some(&value) {
        entry.ours.retain(|other| *other != value);
        entry.ours.push(value);
        entry.by.clear();
    }
    if !entry.by.iter().any(|by| by == scenario) {
        entry.by.push(scenario.to_owned());
    }
}

fn taken(want: &Want, entry: &Entry, scenario: &str) -> Error {
    let Want { setting, knob, value, .. } = want;
    let others: Vec<&str> =
        entry.by.iter().map(String::as_str).filter(|by| *by != scenario).collect();
    let (by, theirs) = (others.join(", "), entry.wanted());
    Error::conflict(format!(
        "{setting} is {theirs} for scenario {by}: {knob} cannot be {value}, too"
    ))
    .hint("tdx-td host restore ends that, --replace overrules it")
}
