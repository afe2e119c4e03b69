//! Planning the IO schedulers of disks.

use crate::host::tuning::disks::Disk;
use crate::host::tuning::item::TuneItem;
use crate::host::tuning::observed::Observed;
use crate::host::tuning::persist::Line;
use crate::host::tuning::plan::draft::{Draft, Want};
use crate::host::tuning::tunable::{Choice, Tunable};

/// The setting that there is once a disk.
const SCHEDULER: &str = "host.io_scheduler";

impl Draft {
    pub(super) fn schedulers(&mut self, observed: &Observed, value: &str) {
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
}
