//! Which scenario asks for what, and what there was before all of them. Pure.

use common::{Error, Result};

use super::knob::Knob;
use super::plan::{Options, Want};
use super::record::{Entry, Records};

/// The records once `scenario` has what it wants.
///
/// Errors: `conflict` where another scenario wants something else, unless that may be replaced.
pub fn records(wants: &[Want], options: Options, old: &Records, scenario: &str) -> Result<Records> {
    let mut new = Records { is_outdated: false, ..old.clone() };
    for want in wants {
        let is_file = matches!(want.knob, Knob::File(_));
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
        put(entries, want, scenario, before);
        if options.persist && !want.knob.lasts() {
            put(&mut new.lasting, want, scenario, "");
        }
    }
    Ok(new)
}

/// Puts a value into a record, which remembers the first one there ever was.
fn put(entries: &mut Vec<Entry>, want: &Want, scenario: &str, before: &str) {
    let at = entries.iter().position(|entry| entry.knob == want.knob).unwrap_or_else(|| {
        entries.push(Entry {
            setting: want.setting.clone(),
            knob: want.knob.clone(),
            before: before.to_owned(),
            ours: Vec::new(),
            by: Vec::new(),
        });
        entries.len() - 1
    });
    let entry = &mut entries[at];
    if entry.ours.last() != Some(&want.value) {
        entry.ours.retain(|value| *value != want.value);
        entry.ours.push(want.value.clone());
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
