//! Planning the IO schedulers of disks.

use crate::host::tuning::disks::Disk;
use crate::host::tuning::item::TuneItem;
use crate::host::tuning::observed::ObservedHost;
use crate::host::tuning::persist::Line;
use crate::host::tuning::plan::draft::{DesiredValue, SettingsPlan};
use crate::host::tuning::tunable::{Tunable, ValueList};

/// The setting that has one item for each disk.
const SCHEDULER: &str = "host.io_scheduler";

impl SettingsPlan {
    pub(super) fn add_schedulers(&mut self, observed: &ObservedHost, value: &str) {
        let loadable = observed.loadable.get(value);
        if let Some(module) = loadable {
            let (tunable, setting) = (Tunable::Loaded(module.clone()), SCHEDULER.to_owned());
            let (now, value) = ("no".to_owned(), "yes".to_owned());
            self.desired.push(DesiredValue { setting, tunable, now, value, holds: false });
        }
        let before = self.desired.len();
        for disk in &observed.disks.found {
            self.add_scheduler(observed, disk, value, loadable);
        }
        if loadable.is_some() && self.desired.len() == before {
            self.desired.pop();
        }
        for place in &observed.disks.elsewhere {
            let mut item = TuneItem::new(SCHEDULER, None, None, value);
            item.add_note(place);
            self.items.push(item);
        }
    }

    fn add_scheduler(
        &mut self,
        observed: &ObservedHost,
        disk: &Disk,
        value: &str,
        module: Option<&String>,
    ) {
        let path = disk.path();
        let choice = disk.scheduler.as_deref().map(ValueList::parse);
        let offered =
            choice.as_ref().is_some_and(|choice| choice.offered.iter().any(|o| o == value));
        match choice {
            None => {
                let mut item = TuneItem::new(SCHEDULER, Some(&path), None, value);
                item.add_note(&format!("disk {} has no scheduler", disk.name));
                return self.items.push(item);
            }
            Some(choice) if !offered && module.is_none() => {
                return self.add_unavailable(SCHEDULER, &path, &choice, value);
            }
            Some(choice) => {
                let item =
                    self.add_tunable(SCHEDULER, Tunable::Choice(path), Some(choice.current), value);
                if let Some(module) = module {
                    item.add_note(&format!("needs module {module}, which is loaded first"));
                }
            }
        }
        self.persist_last(observed, Line::scheduler(&disk.rule, value));
        if let Some(item) = self.items.last_mut()
            && item.persistent
            && disk.rule.starts_with("KERNEL")
        {
            item.add_note("at boot the disk is identified by its name, which may change");
        }
    }
}
