//! Planning every setting of a scenario.

use common::Result;

use crate::host::tuning::item::TuneItem;
use crate::host::tuning::kernel_files::{HUGEPAGES, SWAPPINESS, THP};
use crate::host::tuning::observed::Observed;
use crate::host::tuning::persist;
use crate::host::tuning::plan::draft::{Draft, Options, Want};
use crate::host::tuning::tunable::{Tunable, plain};
use crate::scenario::profile;

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
