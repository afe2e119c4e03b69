//! Planning all host settings of a scenario.

use common::Result;

use crate::host::tuning::item::TuneItem;
use crate::host::tuning::kernel_files::{HUGEPAGES, SWAPPINESS, THP};
use crate::host::tuning::observed::ObservedHost;
use crate::host::tuning::persist;
use crate::host::tuning::plan::draft::{DesiredValue, Options, SettingsPlan};
use crate::host::tuning::tunable::{Tunable, normalized_option};
use crate::scenario::profile;

/// Plans the changes that set the host to `wanted`.
///
/// Errors: `conflict` for a file that these tools did not write, and for a module that cannot be reloaded.
pub fn plan_settings(
    observed: &ObservedHost,
    wanted: &profile::Host,
    options: Options,
) -> Result<SettingsPlan> {
    let mut draft = SettingsPlan { options, ..SettingsPlan::default() };
    for (module, values) in &wanted.modules {
        let values =
            values.iter().map(|(name, value)| (name.as_str(), normalized_option(&value.0)));
        draft.add_module(observed, module, values.collect())?;
    }
    if let Some(use_of) = wanted.transparent_hugepages {
        let text = observed.transparent_hugepages.as_deref();
        draft.add_choice(observed, "host.transparent_hugepages", THP, text, use_of.as_str());
    }
    draft.add_page_merging(observed, wanted);
    if let Some(pages) = wanted.hugepages {
        let (path, now) = observed.hugepages.clone().unzip();
        let path = path.unwrap_or(HUGEPAGES[0]);
        draft.add_number(observed, "host.hugepages", path, now, &pages.to_string());
    }
    if let Some(profile::Swappiness(value)) = wanted.swappiness {
        let now = observed.swappiness.clone();
        draft.add_number(observed, "host.swappiness", SWAPPINESS, now, &value.to_string());
    }
    if let Some(scheduler) = &wanted.io_scheduler {
        draft.add_schedulers(observed, scheduler);
    }
    for argument in &wanted.kernel_arguments {
        draft.add_kernel_argument(observed, argument);
    }
    draft.add_files(observed)?;
    Ok(draft)
}

impl SettingsPlan {
    fn add_kernel_argument(&mut self, observed: &ObservedHost, argument: &str) {
        let key = argument.split('=').next().unwrap_or(argument);
        let same_key = |word: &&String| word.split('=').next() == Some(key);
        let is_set = observed.arguments.contains(argument);
        let now = if is_set {
            Some(argument)
        } else {
            observed.arguments.iter().find(same_key).map(String::as_str)
        };
        let setting = format!("host.kernel_arguments.{key}");
        let mut item = TuneItem::new(&setting, Some("/proc/cmdline"), now, argument);
        (item.in_force, item.persistent) = (is_set, is_set);
        if !is_set {
            item.add_note(&format!(
                "add {argument} to the kernel command line, in GRUB_CMDLINE_LINUX, and reboot"
            ));
        }
        self.items.push(item);
    }

    fn add_files(&mut self, observed: &ObservedHost) -> Result<()> {
        for (path, value) in persist::merged_files(&observed.files, &self.lines)? {
            let now = observed.files.get(path).cloned().unwrap_or_default();
            let (setting, tunable) = ("host".to_owned(), Tunable::File(path.to_owned()));
            self.desired.push(DesiredValue { setting, tunable, now, value, holds: false });
        }
        Ok(())
    }
}
