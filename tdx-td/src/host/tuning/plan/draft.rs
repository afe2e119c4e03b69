//! The plan of tuning, to which settings are added one after another.

use common::document::Action;

use crate::host::tuning::boot::OverrulingLine;
use crate::host::tuning::item::TuneItem;
use crate::host::tuning::observed::ObservedHost;
use crate::host::tuning::persist;
use crate::host::tuning::persist::{Line, LineState};
use crate::host::tuning::tunable::{Tunable, ValueList};

/// The options of `host tune`.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    /// Whether the settings also apply at boot.
    pub persist: bool,
    /// Whether modules may be reloaded to change their options.
    pub reload_modules: bool,
    /// Whether settings of another scenario may be changed.
    pub replace: bool,
}

/// The desired value of a tunable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DesiredValue {
    /// The setting of the scenario.
    pub setting: String,
    /// The tunable.
    pub tunable: Tunable,
    /// The current value.
    pub now: String,
    /// The desired value.
    pub value: String,
    /// Whether the current value is the desired one or equivalent.
    pub holds: bool,
}

/// The plan of tuning.
#[derive(Debug, Default)]
pub struct SettingsPlan {
    /// The item of each setting.
    pub items: Vec<TuneItem>,
    /// The desired values, in the order in which they are set.
    pub desired: Vec<DesiredValue>,
    /// A message for each setting that another file overrides at boot.
    pub overruled: Vec<String>,
    pub(super) lines: Vec<Line>,
    pub(super) options: Options,
}

impl SettingsPlan {
    /// Adds a setting of one tunable.
    pub(super) fn add_tunable(
        &mut self,
        setting: &str,
        tunable: Tunable,
        now: Option<String>,
        value: &str,
    ) -> &mut TuneItem {
        let holds = now.as_deref() == Some(value);
        let mut item = TuneItem::new(setting, tunable.file(), now.as_deref(), value);
        item.in_force = now.is_some();
        match now {
            None => item.add_note("this kernel does not support the setting"),
            Some(now) => {
                item.action = if holds { Action::None } else { Action::Set };
                let (setting, value) = (setting.to_owned(), value.to_owned());
                self.desired.push(DesiredValue { setting, tunable, now, value, holds });
            }
        }
        self.items.push(item);
        let last = self.items.len() - 1;
        &mut self.items[last]
    }

    /// Makes the last setting apply at boot, if that was requested.
    pub(super) fn persist_last(&mut self, observed: &ObservedHost, line: Line) {
        let Some(item) = self.items.last_mut() else { return };
        let state = persist::line_state(&observed.files, &line);
        item.persistent = state == LineState::Same || self.options.persist;
        match state {
            LineState::Different if !self.options.persist => {
                item.add_note(&format!("{} sets another value at the next boot", line.file));
            }
            LineState::Different | LineState::Missing if self.options.persist => {
                if item.action == Action::None {
                    item.action = Action::Persist;
                }
                self.lines.push(line.clone());
            }
            _ => {}
        }
        if item.persistent
            && let Some(OverrulingLine { place, value }) = observed.boot.overruling_line(&line)
        {
            item.persistent = false;
            let note = format!("{place} sets {value} at boot and overrides {}", line.file);
            item.add_note(&note);
            self.overruled.push(format!("{}: {note}", item.setting));
        }
    }

    pub(super) fn add_number(
        &mut self,
        observed: &ObservedHost,
        setting: &str,
        path: &str,
        now: Option<String>,
        value: &str,
    ) {
        let is_there = now.is_some();
        self.add_tunable(setting, Tunable::Number(path.to_owned()), now, value);
        let line = match path.strip_prefix("/proc/sys/") {
            Some(key) => Line::sysctl(&key.replace('/', "."), value),
            None => Line::attribute(path, value),
        };
        if is_there {
            self.persist_last(observed, line);
        }
    }

    pub(super) fn add_choice(
        &mut self,
        observed: &ObservedHost,
        setting: &str,
        path: &str,
        text: Option<&str>,
        value: &str,
    ) {
        let choice = text.map(ValueList::parse);
        match &choice {
            Some(choice) if !choice.offered.iter().any(|offered| offered == value) => {
                self.add_unavailable(setting, path, choice, value);
            }
            _ => {
                let now = choice.map(|choice| choice.current);
                let is_there = now.is_some();
                self.add_tunable(setting, Tunable::Choice(path.to_owned()), now, value);
                if is_there {
                    self.persist_last(observed, Line::attribute(path, value));
                }
            }
        }
    }

    pub(super) fn add_unavailable(
        &mut self,
        setting: &str,
        path: &str,
        choice: &ValueList,
        value: &str,
    ) {
        let mut item = TuneItem::new(setting, Some(path), Some(&choice.current), value);
        item.add_note(&format!("this kernel offers only {}", choice.offered.join(", ")));
        self.items.push(item);
    }
}
