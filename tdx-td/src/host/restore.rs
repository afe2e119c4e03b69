//! `tdx-td host restore`: this host as it was before it was tuned.

use std::borrow::Cow;
use std::cmp::Ordering;

use clap::Args;
use common::cli::{Change as ChangeArgs, Context};
use common::document::{Action, Document, Item};
use common::host::Host;
use common::output::Outcome;
use common::{Error, ErrorKind, Result, interrupt};
use schemars::JsonSchema;
use serde::Serialize;

use super::tuning::apply::{self, Change};
use super::tuning::back::{Fate, Step, entries, told};
use super::tuning::knob::Knob;
use super::tuning::ksm::Ksm;
use super::tuning::machine;
use super::tuning::record::{self, Records};

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
            self.action.0.to_owned(),
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
    let records = Records::read(host)?;
    let steps = observe(host, &records)?;
    let changes = changes(host, &steps)?;
    let mut warnings: Vec<String> = steps.iter().filter_map(left).collect();
    if records.is_outdated {
        warnings
            .push("what was recorded before the last boot is forgotten: it ended with it".into());
    } else if steps.is_empty() {
        warnings.push("nothing is recorded: this host is not tuned, or was booted since".into());
    }
    if records.running.is_empty() && !steps.is_empty() {
        warnings.push("what the files have set at boot stays until the next one".into());
    }
    if !dry_run {
        apply::check_writable(host, &changes)?;
        if !changes.is_empty() {
            context.confirm(args.change, "put this host's settings back to what they were?")?;
        }
        apply(host, &records, &steps, &changes)?;
    }
    let items = steps.iter().map(item).collect();
    Ok(Document::new("tdx.td.host_restore", items).dry_run(dry_run).warnings(warnings).into())
}

fn observe(host: &Host, records: &Records) -> Result<Vec<Step>> {
    let step = |entry: record::Entry| Ok(Step { now: entry.knob.read(host)?, entry });
    entries(records).into_iter().map(step).collect()
}

fn changes(host: &Host, steps: &[Step]) -> Result<Vec<Change>> {
    Ok(apply::in_order(Ksm::read(host)?.as_ref(), steps.iter().map(Step::change).collect()))
}

/// Makes the changes that are still to be made once nobody else is at work, then forgets.
fn apply(host: &Host, planned: &Records, steps: &[Step], changes: &[Change]) -> Result<()> {
    let is_empty = *planned == Records::default();
    if is_empty && !record::is_there(host) {
        return Ok(());
    }
    let _lock = record::lock(host)?;
    if Records::read(host)? != *planned || observe(host, planned)? != steps {
        return Err(
            Error::conflict("the host's settings have changed meanwhile").hint("run it again")
        );
    }
    let failed = apply::each(host, changes);
    for step in steps {
        // Also what a kill left beside a file that never came to be.
        if let (Knob::File(_), Fate::Same) = (&step.entry.knob, step.fate()) {
            step.entry.knob.write(host, &step.entry.before)?;
        }
    }
    if failed.is_empty() {
        return Records::default().write(host, planned);
    }
    let done = changes.iter().filter(|change| !failed.iter().any(|(other, _)| other == *change));
    let kind = failed.first().map_or(ErrorKind::Failed, |(_, error)| error.kind());
    Err(Error::new(kind, "not all settings of the host are as they were")
        .applied(done.map(|change| format!("{} is {} again", change.knob, change.after)))
        .left_behind(failed.into_iter().map(|(change, error)| {
            let causes: String = error.causes().iter().map(|cause| format!(": {cause}")).collect();
            format!("{}, which was {}: {error}{causes}", change.knob, change.after)
        }))
        .hint("the record is kept: tdx-td host restore tries again"))
}

/// A sentence for what is not put back.
fn left(step: &Step) -> Option<String> {
    let knob = &step.entry.knob;
    match step.fate() {
        Fate::Foreign => Some(format!("{knob} was set otherwise since, and is left")),
        Fate::Gone => Some(format!("{knob} is not there any more")),
        Fate::Same | Fate::Back => None,
    }
}

fn item(step: &Step) -> RestoreItem {
    let record::Entry { setting, knob, before, by, .. } = &step.entry;
    let removed = matches!(knob, Knob::File(_));
    RestoreItem {
        setting: setting.clone(),
        path: knob.to_string(),
        current: step.now.as_deref().and_then(|now| told(knob, now)),
        previous: told(knob, before),
        scenarios: by.clone(),
        action: match step.fate() {
            Fate::Back if removed => Action("remove"),
            Fate::Back => Action("restore"),
            _ => Action::NONE,
        },
        note: left(step),
    }
}
