//! The plan of `host tune`: the changes for a scenario, which are recorded and made.

use std::path::PathBuf;

use common::cli::Context;
use common::cli::config::Config;
use common::document::Action;
use common::libvirt::Libvirt;
use common::system::sysroot::Host;
use common::{Error, ErrorKind, Result};

use crate::host::tuning::change::Change;
use crate::host::tuning::item::TuneItem;
use crate::host::tuning::observed::ObservedHost;
use crate::host::tuning::plan::{Options, plan_settings};
use crate::host::tuning::record::Records;
use crate::host::tuning::{apply, directory, disks, machine, ownership};
use crate::scenario::profile;

/// The wanted settings of a host, and their scenario.
#[derive(Debug, Clone)]
struct Goal {
    host: Host,
    wanted: profile::Host,
    scenario: String,
    /// Files and directories whose disks are tuned.
    places: Vec<PathBuf>,
    options: Options,
}

/// The plan of setting this host to the values of a scenario.
#[derive(Debug)]
pub struct TunePlan {
    goal: Goal,
    items: Vec<TuneItem>,
    warnings: Vec<String>,
    changes: Vec<Change>,
    old: Records,
    new: Records,
}

impl TunePlan {
    /// Reads the host and plans. Nothing is changed.
    ///
    /// The disks are those of the pool and of `domains`. Without libvirt, the directory of the pool is that in
    /// the configuration.
    ///
    /// Errors: `conflict` with a value that another scenario set; `not_found` for a domain; `unsupported` in a
    /// container and for another machine's libvirt; `permission`, `io`.
    pub fn new(
        context: &Context,
        libvirt: Option<&Libvirt>,
        config: &Config,
        wanted: &profile::Host,
        scenario: &str,
        domains: &[String],
        options: Options,
    ) -> Result<Self> {
        let host = context.host.clone();
        machine::check(&host, libvirt.map(Libvirt::uri))?;
        let places = match wanted.io_scheduler {
            Some(_) => disks::image_paths(libvirt, config, domains)?,
            None => Vec::new(),
        };
        let (wanted, scenario) = (wanted.clone(), scenario.to_owned());
        Self::for_goal(Goal { host, wanted, scenario, places, options })
    }

    fn for_goal(goal: Goal) -> Result<Self> {
        let Goal { host, wanted, scenario, places, options } = &goal;
        let disks = match wanted.io_scheduler {
            Some(_) => disks::find_disks(host, places)?,
            None => disks::Disks::default(),
        };
        let observed = ObservedHost::read(host, wanted, disks)?;
        let draft = plan_settings(&observed, wanted, *options)?;
        let old = match Records::read(host) {
            // A user who may not read the records can only plan, without them.
            Err(error) if error.kind() == ErrorKind::Permission => Records::default(),
            read => read?,
        };
        let new = ownership::updated_records(&draft.desired, *options, &old, scenario)?;
        let changes = draft.desired.iter().map(|want| Change {
            tunable: want.tunable.clone(),
            before: want.now.clone(),
            after: if want.holds { want.now.clone() } else { want.value.clone() },
        });
        let changes = apply::in_order(observed.ksm.as_ref(), changes.collect());
        let mut warnings = draft.overruled;
        warnings.extend(ownership::edited_files(&observed.files, &draft.desired, &old));
        if old.is_outdated {
            warnings.push(
                "the tuning record from before the reboot is ignored: the reboot reset the tuned settings"
                    .to_owned(),
            );
        }
        Ok(Self { goal, items: draft.items, warnings, changes, old, new })
    }

    /// Returns a description of each setting that differs from the scenario's recommendation.
    pub fn differences(&self) -> Vec<String> {
        let differs = |item: &&TuneItem| {
            !item.in_force || !matches!(item.action, Action::None | Action::Persist)
        };
        let describe = |item: &TuneItem| {
            let (setting, wanted) = (&item.setting, &item.wanted);
            match &item.current {
                Some(current) => format!("{setting} is {current}, but {wanted} is recommended"),
                None => format!("{setting} is not set, but {wanted} is recommended"),
            }
        };
        self.items.iter().filter(differs).map(describe).collect()
    }

    /// Returns the number of settings that would change.
    pub fn count_changes(&self) -> usize {
        self.items.iter().filter(|item| item.action != Action::None).count()
    }

    /// Whether anything would change.
    pub fn has_changes(&self) -> bool {
        !self.changes.is_empty()
    }

    /// Fails unless the plan can be carried out, as far as that can be checked without doing so.
    ///
    /// Errors: `permission` for a user who is not root; `permission`, `io`, with the path.
    pub fn check(&self) -> Result<()> {
        machine::check_root(&self.goal.host)?;
        apply::check_writable(&self.goal.host, &self.changes)
    }

    /// Takes the lock, plans again, records the current values and makes the changes. If one fails, all are
    /// undone. Returns the plan that was carried out.
    ///
    /// Errors: `conflict` with a value that another scenario set meanwhile; `conflict` if the changes are no
    /// longer those that were planned, unless `whatever` is true; `permission`, `io`; those of the kernel,
    /// systemctl and modprobe.
    pub fn apply(self, whatever: bool) -> Result<Self> {
        if self.changes.is_empty() && self.old == self.new {
            return Ok(self);
        }
        let _lock = directory::lock(&self.goal.host)?;
        let plan = Self::for_goal(self.goal)?;
        if !whatever && plan.changes != self.changes {
            return Err(Error::conflict(
                "the settings of the host changed after the confirmation question",
            )
            .hint("run the command again"));
        }
        plan.check()?;
        plan.carry_out()?;
        Ok(plan)
    }

    fn carry_out(&self) -> Result<()> {
        let host = &self.goal.host;
        let forget = || self.old.write(host, &self.new);
        if let Err(error) = self.new.write(host, &self.old) {
            let _ = forget();
            return Err(error);
        }
        apply::apply_or_undo(host, &self.changes).map_err(|error| {
            if error.to_document().error.left_behind.is_empty() && forget().is_ok() {
                error
            } else {
                error.hint("to restore the other settings, run tdx-td host restore")
            }
        })
    }

    /// Returns the items of the settings, and the warnings for the user.
    pub fn into_items(self) -> (Vec<TuneItem>, Vec<String>) {
        let missing = self.items.iter().filter(|item| !item.in_force).map(|item| {
            let note = item.note.as_deref().unwrap_or("not in effect");
            format!("{}: {note}", item.setting)
        });
        let warnings = self.warnings.iter().cloned().chain(missing).collect();
        (self.items, warnings)
    }
}
