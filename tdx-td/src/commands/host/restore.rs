//! `tdx-td host restore`: this host as it was before it was tuned.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::collections::BTreeSet;

use clap::Args;
use common::cli::{Change as ChangeArgs, Context, interrupt};
use common::document::output::Outcome;
use common::document::{Action, Document, Item};
use common::system::sysroot::Host;
use common::{Error, ErrorKind, Result};
use schemars::JsonSchema;
use serde::Serialize;

use crate::host::tuning::apply::Change;
use crate::host::tuning::ksm::Ksm;
use crate::host::tuning::record::Records;
use crate::host::tuning::restore_plan::{Fate, Step, entries, told};
use crate::host::tuning::tunable::Tunable;
use crate::host::tuning::{apply, machine, record};

const EXAMPLES: &str = "Examples:
  tdx-td host restore --dry-run
  tdx-td host restore --yes";

/// Arguments of `host restore`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct RestoreArgs {
    #[command(flatten)]
    change: ChangeArgs,
}

/// Something that tuning set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct RestoreItem {
    /// The setting it is for, `host.swappiness`; `host` for a file that sets at boot.
    pub setting: String,
    /// The file, the unit or the module.
    pub path: String,
    /// What it was when the command began; null where it is not there.
    pub current: Option<String>,
    /// What it was before the host was tuned; null where it was not there.
    pub previous: Option<String>,
    /// The scenarios that it was set for.
    pub scenarios: Vec<String>,
    /// `restore`, `remove` of a file, or `none`.
    pub action: Action,
    /// What else there is to say of it.
    pub note: Option<String>,
}

impl Item for RestoreItem {
    const COLUMNS: &'static [&'static str] =
        &["SETTING", "PATH", "CURRENT", "PREVIOUS", "ACTION", "NOTE"];
    const WRAPPED: &'static [&'static str] = &["NOTE"];
    const DROPPED: &'static [&'static str] = &["PATH"];

    fn key(&self) -> Cow<'_, str> {
        self.setting.as_str().into()
    }

    fn compare(&self, other: &Self) -> Ordering {
        (&self.setting, &self.path).cmp(&(&other.setting, &other.path))
    }

    fn row(&self) -> Vec<String> {
        vec![
            self.setting.clone(),
            self.path.clone(),
            self.current.clone().unwrap_or_default(),
            self.previous.clone().unwrap_or_default(),
            self.action.to_string(),
            self.note.clone().unwrap_or_default(),
        ]
    }

    fn action(&self) -> Option<Action> {
        Some(self.action)
    }
}

/// Puts back what tuning set, and takes away what it wrote for every boot.
///
/// What somebody else has set since stays and is told. Without a record there is nothing to do.
/// Errors: as `host tune`; `failed` for what does not go back, with all that does put back nevertheless.
pub fn run(context: &Context, uri: Option<&str>, args: RestoreArgs) -> Result<Outcome> {
    let host = &context.host;
    machine::check(host, uri)?;
    let dry_run = args.change.dry_run;
    if !dry_run {
        machine::check_root(host)?;
    }
    interrupt::guard();
    let mut back = Back::new(host)?;
    if !dry_run {
        apply::check_writable(host, &back.changes)?;
        if !back.changes.is_empty() {
            context.confirm(args.change, "put this host's settings back to what they were?")?;
        }
        back = back.apply(host, args.change.yes)?;
    }
    let (items, warnings) = (back.steps.iter().map(item).collect(), back.warnings());
    Ok(Document::new("tdx.td.host_restore", items).dry_run(dry_run).warnings(warnings).into())
}

/// The way back.
#[derive(Debug, PartialEq, Eq)]
struct Back {
    records: Records,
    steps: Vec<Step>,
    changes: Vec<Change>,
}

impl Back {
    /// Looks at the host and plans. Nothing is touched.
    fn new(host: &Host) -> Result<Self> {
        let records = Records::read(host)?;
        let step = |entry: record::Entry| Ok(Step { now: entry.knob.read(host)?, entry });
        let steps: Vec<Step> = entries(&records).into_iter().map(step).collect::<Result<_>>()?;
        let changes = steps.iter().map(Step::change).collect();
        let changes = apply::in_order(Ksm::read(host)?.as_ref(), changes);
        Ok(Self { records, steps, changes })
    }

    /// Plans again once nobody else is at work, makes the changes, then forgets; returns what was done.
    fn apply(self, host: &Host, whatever: bool) -> Result<Self> {
        if self.records == Records::default() && !record::is_there(host) {
            return Ok(self);
        }
        let _lock = record::lock(host)?;
        let back = Self::new(host)?;
        if !whatever && back.changes != self.changes {
            return Err(
                Error::conflict("the host's settings have changed meanwhile").hint("run it again")
            );
        }
        let failed = apply::each(host, &back.changes);
        for step in &back.steps {
            // Also what a kill left beside a file that never came to be.
            if let (Tunable::File(_), Fate::Same) = (&step.entry.knob, step.fate()) {
                step.entry.knob.write(host, &step.entry.before)?;
            }
        }
        if failed.is_empty() {
            Records::default().write(host, &back.records)?;
            return Ok(back);
        }
        let has_failed = |change: &&Change| failed.iter().any(|(other, _)| other == *change);
        let done = back.changes.iter().filter(|change| !has_failed(change));
        let kind = failed.first().map_or(ErrorKind::Failed, |(_, error)| error.kind());
        Err(Error::new(kind, "not all settings of the host are as they were")
            .applied(done.map(|change| format!("{} is {} again", change.knob, change.after)))
            .left_behind(failed.into_iter().map(|(change, error)| {
                let causes: String =
                    error.causes().iter().map(|cause| format!(": {cause}")).collect();
                format!("{}, which was {}: {error}{causes}", change.knob, change.after)
            }))
            .hint("the record is kept: tdx-td host restore tries again"))
    }

    /// What the user should know.
    fn warnings(&self) -> Vec<String> {
        let (stay, others): (Vec<&Step>, Vec<&Step>) =
            self.steps.iter().partition(|step| step.fate() == Fate::Stays);
        let mut warnings: Vec<String> = others.into_iter().filter_map(left).collect();
        if !stay.is_empty() {
            let settings: BTreeSet<&str> =
                stay.iter().map(|step| step.entry.setting.as_str()).collect();
            let settings: Vec<&str> = settings.into_iter().collect();
            warnings.push(format!(
                "what the files have set at boot stays until the next one: {}",
                settings.join(", ")
            ));
        }
        if self.records.is_outdated {
            warnings.push(
                "what was recorded before the last boot is forgotten: it ended with it".to_owned(),
            );
        } else if self.steps.is_empty() {
            warnings.push(
                "nothing is recorded: this host is not tuned, or was booted since".to_owned(),
            );
        }
        warnings
    }
}

/// A sentence for what is not put back.
fn left(step: &Step) -> Option<String> {
    let knob = &step.entry.knob;
    let theirs = step.theirs();
    let lines: Vec<&str> = theirs.lines().filter(|line| !line.trim().is_empty()).collect();
    match step.fate() {
        Fate::Foreign => Some(format!("{knob} was set otherwise since, and is left")),
        Fate::Gone => Some(format!("{knob} is not there any more")),
        Fate::Stays => Some(format!("{knob} was set at boot and stays until the next one")),
        Fate::Back if !lines.is_empty() => {
            Some(format!("in {knob} stays what tuning has not written: {}", lines.join("; ")))
        }
        Fate::Same | Fate::Back => None,
    }
}

fn item(step: &Step) -> RestoreItem {
    let record::Entry { setting, knob, before, by, .. } = &step.entry;
    let removed = matches!(knob, Tunable::File(_)) && step.theirs().is_empty();
    RestoreItem {
        setting: setting.clone(),
        path: knob.to_string(),
        current: step.now.as_deref().and_then(|now| told(knob, now)),
        previous: told(knob, before).filter(|_| step.fate() != Fate::Stays),
        scenarios: by.clone(),
        action: match step.fate() {
            Fate::Back if removed => Action::Remove,
            Fate::Back => Action::Restore,
            _ => Action::None,
        },
        note: left(step).or_else(|| match step.fate() {
            Fate::Same => Some("it is as it was before".to_owned()),
            Fate::Back if step.entry.at_boot => {
                Some("that was set at boot, and stays until the next one".to_owned())
            }
            _ => None,
        }),
    }
}
