//! Planning the merging of pages (KSM), in the kernel and in the systemd units that control it.

use common::document::Action;

use crate::host::tuning::item::TuneItem;
use crate::host::tuning::kernel_files;
use crate::host::tuning::observed::ObservedHost;
use crate::host::tuning::plan::{DesiredValue, SettingsPlan};
use crate::host::tuning::tunable::{Tunable, Unit};
use crate::scenario::profile;
use crate::scenario::profile::OnOff;

impl SettingsPlan {
    /// Adds the settings of KSM.
    pub(super) fn add_page_merging(&mut self, observed: &ObservedHost, wanted: &profile::Host) {
        let digit = |OnOff(on): OnOff| if on { "1" } else { "0" };
        let now = observed.ksm.clone();
        // The units are stopped before and started after: they write to the same file.
        if wanted.ksm == Some(OnOff(false)) {
            observed.units.iter().for_each(|unit| self.add_unit(unit, false));
        }
        if let Some(merge) = wanted.ksm_merge_across_nodes {
            let current = now.as_ref().and_then(|ksm| ksm.merge.clone());
            self.add_number(
                observed,
                "host.ksm_merge_across_nodes",
                kernel_files::KSM_MERGE,
                current,
                digit(merge),
            );
            let shared = now.as_ref().map_or(0, |ksm| ksm.shared);
            if let Some(item) =
                self.items.last_mut().filter(|i| i.action == Action::Set && shared > 0)
            {
                item.add_note(&format!(
                    "{shared} merged pages are separated first, which takes memory"
                ));
            }
        }
        if let Some(on) = wanted.ksm {
            let current = now.as_ref().map(|ksm| ksm.run.clone());
            let is_off = matches!(current.as_deref(), Some("0" | kernel_files::KSM_APART));
            self.add_number(observed, "host.ksm", kernel_files::KSM_RUN, current, digit(on));
            if let (Some(item), Some(want)) = (self.items.last_mut(), self.desired.last_mut())
                && is_off
                && on == OnOff(false)
            {
                want.holds = true;
                item.action = if item.action == Action::Set { Action::None } else { item.action };
            }
            if let Some(item) = self.items.last_mut().filter(|_| !observed.has_systemd) {
                item.add_note("systemd does not run here: its units are not checked");
            }
        }
        if wanted.ksm == Some(OnOff(true)) {
            observed.units.iter().for_each(|unit| self.add_unit(unit, true));
        }
    }

    fn add_unit(&mut self, unit: &Unit, on: bool) {
        let state = |running: &str, file: &str| format!("{running}, {file}");
        let (running, file) = if on { ("active", "enabled") } else { ("inactive", "disabled") };
        let now = state(unit.running(), &unit.file_state);
        let mut item = TuneItem::new("host.ksm", Some(&unit.name), Some(&now), running);
        item.in_force = true;
        if on && unit.name == kernel_files::KSM_TUNER {
            item.wanted = now;
            item.add_note("this unit turns merging on and off by itself, and is not changed");
            return self.items.push(item);
        }
        if on && unit.file_state == "masked" {
            item.in_force = unit.is_running;
            item.add_note("this unit is masked, and is not changed");
            return self.items.push(item);
        }
        let mut want = |tunable: Tunable, now: &str, value: &str| {
            let (setting, holds) = ("host.ksm".to_owned(), now == value);
            let (now, value) = (now.to_owned(), value.to_owned());
            self.desired.push(DesiredValue { setting, tunable, now, value, holds });
        };
        want(Tunable::Running(unit.name.clone()), unit.running(), running);
        if unit.running() != running {
            item.action = if on { Action::Start } else { Action::Stop };
        }
        let can_be_enabled = matches!(unit.file_state.as_str(), "enabled" | "disabled");
        item.persistent = unit.file_state == file || (self.options.persist && can_be_enabled);
        if self.options.persist && can_be_enabled {
            want(Tunable::Enabled(unit.name.clone()), &unit.file_state, file);
            item.wanted = state(running, file);
            if unit.file_state != file && item.action == Action::None {
                item.action = Action::Persist;
            }
        }
        self.items.push(item);
    }
}
