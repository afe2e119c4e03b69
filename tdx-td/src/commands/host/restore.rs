//! `tdx-td host restore`: restores the settings of this host that `tdx-td host tune` recorded.

use std::borrow::Cow;
use std::cmp::Ordering;

use clap::Args;
use common::Result;
use common::cli::{Change as ChangeArgs, Context, interrupt};
use common::document::output::Outcome;
use common::document::{Action, Document, Item};
use schemars::JsonSchema;
use serde::Serialize;

use crate::host::tuning::restore_plan::RestorePlan;
use crate::host::tuning::restore_step::{RestoreAction, RestoreStep, display_value};
use crate::host::tuning::tunable::Tunable;
use crate::host::tuning::{machine, record};

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

/// Something that `host tune` changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct RestoreItem {
    /// The scenario setting, such as `host.swappiness`; `host` for a file that applies settings at boot.
    pub setting: String,
    /// The file, the systemd unit or the kernel module.
    pub path: String,
    /// The value when the command began; null if the file, unit or module does not exist.
    pub current: Option<String>,
    /// The value before the host was tuned; null if the file, unit or module did not exist.
    pub previous: Option<String>,
    /// The scenarios that set the value.
    pub scenarios: Vec<String>,
    /// `restore` for a value, `remove` for a file, or `none`.
    pub action: Action,
    /// A remark, such as why the value is not restored.
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

/// Restores the values that tuning changed, and removes the files that it wrote for boot.
///
/// A value that somebody else changed since is left and reported. Without a record nothing is changed.
///
/// Errors: as `host tune`; `failed` if a value cannot be restored, after all others were.
pub fn run(context: &Context, uri: Option<&str>, args: RestoreArgs) -> Result<Outcome> {
    let host = &context.host;
    machine::check(host, uri)?;
    let dry_run = args.change.dry_run;
    if !dry_run {
        machine::check_root(host)?;
    }
    interrupt::guard();
    let mut plan = RestorePlan::new(host)?;
    if !dry_run {
        plan.check_writable(host)?;
        if plan.has_changes() {
            context.confirm(args.change, "restore the recorded settings of this host?")?;
        }
        plan = plan.apply(host, args.change.yes)?;
    }
    let (items, warnings) = (plan.steps().iter().map(item).collect(), plan.warnings());
    Ok(Document::new("tdx.td.host_restore", items).dry_run(dry_run).warnings(warnings).into())
}

fn item(step: &RestoreStep) -> RestoreItem {
    let record::Entry { setting, tunable, before, scenarios: by, .. } = &step.entry;
    let removed = matches!(tunable, Tunable::File(_)) && step.foreign_lines().is_empty();
    RestoreItem {
        setting: setting.clone(),
        path: tunable.to_string(),
        current: step.now.as_deref().and_then(|now| display_value(tunable, now)),
        previous: display_value(tunable, before)
            .filter(|_| step.action() != RestoreAction::KeepBootValue),
        scenarios: by.clone(),
        action: match step.action() {
            RestoreAction::Restore if removed => Action::Remove,
            RestoreAction::Restore => Action::Restore,
            _ => Action::None,
        },
        note: step.remark().or_else(|| match step.action() {
            RestoreAction::Unchanged => Some("already has its previous value".to_owned()),
            RestoreAction::Restore if step.entry.at_boot => {
                Some("was set at boot: keeps this value until the next boot".to_owned())
            }
            _ => None,
        }),
    }
}
