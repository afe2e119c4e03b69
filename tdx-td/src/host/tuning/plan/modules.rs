//! Planning options of kernel modules. Most options are read only when the module is loaded.

use common::document::Action;
use common::{Code, Error, Result};

use crate::host::tuning::item::TuneItem;
use crate::host::tuning::observed::{Module, ObservedHost};
use crate::host::tuning::persist::Line;
use crate::host::tuning::plan::{DesiredValue, SettingsPlan};
use crate::host::tuning::tunable::Tunable;

impl SettingsPlan {
    /// Adds the settings of a module's options.
    ///
    /// Errors: `conflict` for a module in use that has to be reloaded, `unsupported` for one that cannot be.
    pub(super) fn add_module(
        &mut self,
        observed: &ObservedHost,
        module: &str,
        values: Vec<(&str, &str)>,
    ) -> Result<()> {
        let found = observed.modules.get(module);
        let value_of = |name: &str| found.and_then(|found| found.options.get(name));
        let known: Vec<_> = values.iter().filter(|(name, _)| value_of(name).is_some()).collect();
        let holds =
            known.iter().all(|(name, value)| value_of(name).is_some_and(|now| now == value));
        let reload = self.options.reload_modules && !holds;
        if reload {
            check_reload(module, found)?;
            let joined = |value: &dyn Fn(&str, &str) -> String| {
                let words =
                    known.iter().map(|(name, wanted)| format!("{name}={}", value(name, wanted)));
                words.collect::<Vec<_>>().join(" ")
            };
            let names = known.iter().map(|(name, _)| (*name).to_owned()).collect();
            self.desired.push(DesiredValue {
                setting: format!("host.modules.{module}"),
                tunable: Tunable::Options { module: module.to_owned(), names },
                now: joined(&|name, _| value_of(name).cloned().unwrap_or_default()),
                value: joined(&|_, wanted| wanted.to_owned()),
                holds: false,
            });
        }
        for (name, value) in values {
            let now = value_of(name);
            let path = format!("/sys/module/{}/parameters/{name}", module.replace('-', "_"));
            let setting = format!("host.modules.{module}.{name}");
            let mut item = TuneItem::new(&setting, Some(&path), now.map(String::as_str), value);
            let same = now.is_some_and(|now| now == value);
            item.in_force = same || (reload && now.is_some());
            match now {
                _ if same => {}
                Some(_) if reload => item.action = Action::Reload,
                Some(_) if self.options.persist => {
                    item.add_note("takes effect when the module is reloaded, or after a reboot");
                }
                Some(_) => item.add_note(
                    "takes effect with --reload-modules, or with --persist after a reboot",
                ),
                None if found.is_some() => {
                    item.add_note(&format!("module {module} of this kernel has no such option"))
                }
                None => item.add_note(&format!("module {module} is not loaded")),
            }
            self.items.push(item);
            if now.is_some() || found.is_none() {
                self.persist_last(observed, Line::option(module, name, value));
            }
        }
        Ok(())
    }
}

/// Fails for a module that cannot be reloaded.
fn check_reload(module: &str, found: Option<&Module>) -> Result<()> {
    match found.map(|found| found.users) {
        Some(Some(0)) => Ok(()),
        Some(Some(users)) => Err(Error::conflict(format!(
            "module {module} cannot be reloaded: it has {users} users"
        ))
        .code(Code::InUseByVm)
        .hint("shut down all guests, or run tdx-td host tune without --reload-modules")),
        Some(None) => Err(Error::unsupported(format!(
            "module {module} cannot be reloaded: it is built into the kernel"
        ))
        .hint("set its options on the kernel command line, such as kvm_amd.sev=1")),
        None => Err(Error::unsupported(format!("module {module} is not loaded"))
            .hint(format!("modprobe {module}"))),
    }
}
