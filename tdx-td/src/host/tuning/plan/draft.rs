//! The plan as it grows, setting by setting.

use common::document::Action;

use crate::host::tuning::boot::Overruled;
use crate::host::tuning::item::TuneItem;
use crate::host::tuning::observed::Observed;
use crate::host::tuning::persist;
use crate::host::tuning::persist::{Line, There};
use crate::host::tuning::tunable::{Choice, Tunable};

/// What is asked for besides the settings.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    /// They are to hold at every boot.
    pub persist: bool,
    /// Modules may be loaded again for their options.
    pub reload_modules: bool,
    /// Another scenario's settings may be replaced.
    pub replace: bool,
}

/// A value that a knob is to have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Want {
    /// The setting it is for.
    pub setting: String,
    /// What it is.
    pub knob: Tunable,
    /// What it says.
    pub now: String,
    /// What it is to say.
    pub value: String,
    /// Whether what it says is as good.
    pub holds: bool,
}

/// What has to be done.
#[derive(Debug, Default)]
pub struct Draft {
    /// For each setting what is so and what becomes of it.
    pub items: Vec<TuneItem>,
    /// The values, in the order in which they are set.
    pub wants: Vec<Want>,
    /// A sentence for each setting that another file overrules at boot.
    pub overruled: Vec<String>,
    pub(super) lines: Vec<Line>,
    pub(super) options: Options,
}

impl Draft {
    /// Adds a setting that is nothing but a knob.
    pub(super) fn knob(
        &mut self,
        setting: &str,
        knob: Tunable,
        now: Option<String>,
        value: &str,
    ) -> &mut TuneItem {
        let holds = now.as_deref() == Some(value);
        let mut item = TuneItem::new(setting, knob.file(), now.as_deref(), value);
        item.in_force = now.is_some();
        match now {
            None => item.say("this kernel has no such thing"),
            Some(now) => {
                item.action = if holds { Action::None } else { Action::Set };
                let (setting, value) = (setting.to_owned(), value.to_owned());
                self.wants.push(Want { setting, knob, now, value, holds });
            }
        }
        self.items.push(item);
        let last = self.items.len() - 1;
        &mut self.items[last]
    }

    /// Has the last setting hold at every boot, when that is asked for.
    pub(super) fn keep(&mut self, observed: &Observed, line: Line) {
        let Some(item) = self.items.last_mut() else { return };
        let there = persist::there(&observed.files, &line);
        item.persistent = there == There::Same || self.options.persist;
        match there {
            There::Other if !self.options.persist => {
                item.say(&format!("{} sets it otherwise at the next boot", line.file));
            }
            There::Other | There::Nothing if self.options.persist => {
                if item.action == Action::None {
                    item.action = Action::Persist;
                }
                self.lines.push(line.clone());
            }
            _ => {}
        }
        if item.persistent
            && let Some(Overruled { place, value }) = observed.boot.overrules(&line)
        {
            item.persistent = false;
            let note = format!("{place} sets it to {value} at boot, whatever {} says", line.file);
            item.say(&note);
            self.overruled.push(format!("{}: {note}", item.setting));
        }
    }

    pub(super) fn number(
        &mut self,
        observed: &Observed,
        setting: &str,
        path: &str,
        now: Option<String>,
        value: &str,
    ) {
        let is_there = now.is_some();
        self.knob(setting, Tunable::Number(path.to_owned()), now, value);
        let line = match path.strip_prefix("/proc/sys/") {
            Some(key) => Line::sysctl(&key.replace('/', "."), value),
            None => Line::attribute(path, value),
        };
        if is_there {
            self.keep(observed, line);
        }
    }

    pub(super) fn choice(
        &mut self,
        observed: &Observed,
        setting: &str,
        path: &str,
        text: Option<&str>,
        value: &str,
    ) {
        let choice = text.map(Choice::parse);
        match &choice {
            Some(choice) if !choice.offered.iter().any(|offered| offered == value) => {
                self.not_offered(setting, path, choice, value);
            }
            _ => {
                let now = choice.map(|choice| choice.current);
                let is_there = now.is_some();
                self.knob(setting, Tunable::Choice(path.to_owned()), now, value);
                if is_there {
                    self.keep(observed, Line::attribute(path, value));
                }
            }
        }
    }

    pub(super) fn not_offered(&mut self, setting: &str, path: &str, choice: &Choice, value: &str) {
        let mut item = TuneItem::new(setting, Some(path), Some(&choice.current), value);
        item.say(&format!("the kernel offers only {}", choice.offered.join(", ")));
        self.items.push(item);
    }
}
