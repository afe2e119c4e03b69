//! What has to be done for a host to be as a scenario wants it. Pure.

mod merging;
mod modules;

use common::Result;
use common::document::Action;

use super::boot::Overruled;
use super::disks::Disk;
use super::observed::{HUGEPAGES, Observed, SWAPPINESS, THP};
use super::persist::{self, Line, There};
use crate::commands::host::tune::TuneItem;
use crate::host::tuning::tunable::{Choice, Tunable, plain};
use crate::scenario::profile;

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

/// The setting that there is once a disk.
const SCHEDULER: &str = "host.io_scheduler";

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
    lines: Vec<Line>,
    options: Options,
}

/// Plans to have the host as `wanted`.
///
/// Errors: `conflict` for a file that is not ours, and for a module that cannot be loaded again.
pub fn draft(observed: &Observed, wanted: &profile::Host, options: Options) -> Result<Draft> {
    let mut draft = Draft { options, ..Draft::default() };
    for (module, values) in &wanted.modules {
        let values = values.iter().map(|(name, value)| (name.as_str(), plain(&value.0)));
        draft.module(observed, module, values.collect())?;
    }
    if let Some(use_of) = wanted.transparent_hugepages {
        let text = observed.transparent_hugepages.as_deref();
        draft.choice(observed, "host.transparent_hugepages", THP, text, use_of.as_str());
    }
    draft.merging(observed, wanted);
    if let Some(pages) = wanted.hugepages {
        let (path, now) = observed.hugepages.clone().unzip();
        let path = path.unwrap_or(HUGEPAGES[0]);
        draft.number(observed, "host.hugepages", path, now, &pages.to_string());
    }
    if let Some(profile::Swappiness(value)) = wanted.swappiness {
        let now = observed.swappiness.clone();
        draft.number(observed, "host.swappiness", SWAPPINESS, now, &value.to_string());
    }
    if let Some(scheduler) = &wanted.io_scheduler {
        draft.schedulers(observed, scheduler);
    }
    for argument in &wanted.kernel_arguments {
        draft.argument(observed, argument);
    }
    draft.files(observed)?;
    Ok(draft)
}

impl Draft {
    /// Adds a setting that is nothing but a knob.
    fn knob(
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
    fn keep(&mut self, observed: &Observed, line: Line) {
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

    fn number(
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

    fn choice(
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

    fn not_offered(&mut self, setting: &str, path: &str, choice: &Choice, value: &str) {
        let mut item = TuneItem::new(setting, Some(path), Some(&choice.current), value);
        item.say(&format!("the kernel offers only {}", choice.offered.join(", ")));
        self.items.push(item);
    }

    fn schedulers(&mut self, observed: &Observed, value: &str) {
        let loadable = observed.loadable.get(value);
        if let Some(module) = loadable {
            let (knob, setting) = (Tunable::Loaded(module.clone()), SCHEDULER.to_owned());
            let (now, value) = ("no".to_owned(), "yes".to_owned());
            self.wants.push(Want { setting, knob, now, value, holds: false });
        }
        let before = self.wants.len();
        for disk in &observed.disks.found {
            self.scheduler(observed, disk, value, loadable);
        }
        if loadable.is_some() && self.wants.len() == before {
            self.wants.pop();
        }
        for place in &observed.disks.elsewhere {
            let mut item = TuneItem::new(SCHEDULER, None, None, value);
            item.say(place);
            self.items.push(item);
        }
    }

    fn scheduler(
        &mut self,
        observed: &Observed,
        disk: &Disk,
        value: &str,
        module: Option<&String>,
    ) {
        let path = disk.path();
        let choice = disk.scheduler.as_deref().map(Choice::parse);
        let offered =
            choice.as_ref().is_some_and(|choice| choice.offered.iter().any(|o| o == value));
        match choice {
            None => {
                let mut item = TuneItem::new(SCHEDULER, Some(&path), None, value);
                item.say(&format!("{} has no scheduler", disk.name));
                return self.items.push(item);
            }
            Some(choice) if !offered && module.is_none() => {
                return self.not_offered(SCHEDULER, &path, &choice, value);
            }
            Some(choice) => {
                let item = self.knob(SCHEDULER, Tunable::Choice(path), Some(choice.current), value);
                if let Some(module) = module {
                    item.say(&format!("the module {module} is loaded for it"));
                }
            }
        }
        self.keep(observed, Line::scheduler(&disk.rule, value));
        if let Some(item) = self.items.last_mut()
            && item.persistent
            && disk.rule.starts_with("KERNEL")
        {
            item.say("at the next boot the disk is known by its name alone");
        }
    }

    fn argument(&mut self, observed: &Observed, argument: &str) {
        let key = argument.split('=').next().unwrap_or(argument);
        let same_key = |word: &&String| word.split('=').next() == Some(key);
        let there = observed.arguments.contains(argument);
        let now = match there {
            true => Some(argument),
            false => observed.arguments.iter().find(same_key).map(String::as_str),
        };
        let setting = format!("host.kernel_arguments.{key}");
        let mut item = TuneItem::new(&setting, Some("/proc/cmdline"), now, argument);
        (item.in_force, item.persistent) = (there, there);
        if !there {
            item.say("add it to the kernel command line, in GRUB_CMDLINE_LINUX, and reboot");
        }
        self.items.push(item);
    }

    fn files(&mut self, observed: &Observed) -> Result<()> {
        for (path, value) in persist::merged(&observed.files, &self.lines)? {
            let now = observed.files.get(path).cloned().unwrap_or_default();
            let (setting, knob) = ("host".to_owned(), Tunable::File(path.to_owned()));
            self.wants.push(Want { setting, knob, now, value, holds: false });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
