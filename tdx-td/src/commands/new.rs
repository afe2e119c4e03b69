//! `tdx-td new`: from a disk image to a running domain.

use std::borrow::Cow;
use std::time::Duration;

use clap::Args;
use common::cli::config::Config;
use common::cli::{Change, Context, interrupt};
use common::document::output::Outcome;
use common::document::{Action, Document, Item};
use common::libvirt::Libvirt;
use common::{Code, Result};
use schemars::JsonSchema;
use serde::Serialize;

use crate::commands::args::guest::GuestArgs;
use crate::commands::args::image::ImageArgs;
use crate::commands::args::wait::{OnTimeout, WaitArgs};
use crate::create::plan::CreationPlan;
use crate::domain::item::DomainItem;
use crate::domain::wait;
use crate::domain::wait::Sign;
use crate::host::tuning::plan::Options;
use crate::host::tuning::tune_plan;
use crate::remove;
use crate::scenario::profile;

/// Arguments of `new`.
#[derive(Debug, Args)]
pub struct NewArgs {
    #[command(flatten)]
    image: ImageArgs,
    #[command(flatten)]
    guest: GuestArgs,
    /// Set this host to what the scenario recommends first, as host tune does; asks first
    #[arg(long, requires = "scenario")]
    tune_host: bool,
    #[command(flatten)]
    wait: WaitArgs,
    #[command(flatten)]
    change: Change,
}

/// A domain and what was done to have it running.
#[derive(Debug, Serialize, JsonSchema)]
pub struct NewItem {
    #[serde(flatten)]
    domain: DomainItem,
    /// `create`; for a name that was there as asked for, `start`, `resume`, `wake` or `none`.
    action: Action,
}

impl Item for NewItem {
    const COLUMNS: &'static [&'static str] = DomainItem::COLUMNS;
    const DROPPED: &'static [&'static str] = DomainItem::DROPPED;

    fn key(&self) -> Cow<'_, str> {
        self.domain.key()
    }

    fn row(&self) -> Vec<String> {
        self.domain.row()
    }

    fn action(&self) -> Option<Action> {
        Some(self.action)
    }
}

/// Creates and starts a domain, or finds it there as asked for.
pub fn run(
    context: &Context,
    connect: impl FnOnce() -> Result<Libvirt>,
    config: &Config,
    args: NewArgs,
) -> Result<Outcome> {
    let request = args.guest.read(&args.image)?;
    let libvirt = connect()?;
    interrupt::guard();
    let mut plan = CreationPlan::new(context, &libvirt, config, &request)?;
    if let Some(shortage) = plan.memory_shortage.take() {
        return Err(shortage);
    }
    plan.confirm(context, args.change)?;
    let mut warnings = std::mem::take(&mut plan.warnings);
    let dry_run = args.change.dry_run;
    let tuned = match plan.host.take() {
        Some(wanted) => {
            let (tuned, more) =
                prepare_host(context, &libvirt, config, &wanted, (args.tune_host, args.change))?;
            warnings.extend(more);
            tuned
        }
        None => None,
    };
    let (mut domain, action) = if dry_run {
        plan.preview(context)?
    } else {
        plan.apply(context, config, &request.image).map_err(|error| error.applied(tuned))?
    };
    if let (Some(sign), false) = (args.wait.wait, dry_run) {
        domain = wait_for(context, &libvirt, &domain, sign, &args.wait, action)?;
    }
    let document = Document::new("tdx.td.new", vec![NewItem { domain, action }]);
    Ok(document.dry_run(dry_run).warnings(warnings).into())
}

/// Has the host as the scenario wants it where that was asked for, else says what is otherwise. Returns what
/// was done, and what the user should know.
///
/// Errors: those of [`tune_plan::TunePlan`]; `conflict` when the answer is no.
fn prepare_host(
    context: &Context,
    libvirt: &Libvirt,
    config: &Config,
    (scenario, wanted): &(String, profile::Host),
    (tune_host, change): (bool, Change),
) -> Result<(Option<String>, Vec<String>)> {
    let options = Options::default();
    let plan =
        tune_plan::TunePlan::new(context, Some(libvirt), config, wanted, scenario, &[], options);
    let plan = match plan {
        // The guest does not depend on it.
        Err(error) if !tune_host => {
            let warning = format!(
                "this host's settings were not compared with what {scenario} recommends: {error}"
            );
            return Ok((None, vec![warning]));
        }
        plan => plan?,
    };
    let differences = plan.differences();
    if differences.is_empty() {
        return Ok((None, Vec::new()));
    }
    if !tune_host {
        let how = format!("tdx-td host tune --scenario {scenario}");
        let warning = format!(
            "this host is not as {scenario} recommends ({how}): {}",
            differences.join("; ")
        );
        return Ok((None, vec![warning]));
    }
    if change.dry_run {
        return Ok((None, differences));
    }
    plan.check()?;
    context.confirm(change, &format!("change {} settings of this host?", differences.len()))?;
    plan.apply(change.yes)?;
    Ok((Some(format!("set this host to what {scenario} recommends")), Vec::new()))
}

/// Waits for the guest. One that was made just now and does not come up goes, if that was asked for.
fn wait_for(
    context: &Context,
    libvirt: &Libvirt,
    domain: &DomainItem,
    sign: Sign,
    args: &WaitArgs,
    action: Action,
) -> Result<DomainItem> {
    let name = &domain.name;
    let timeout = Duration::from_secs(args.timeout);
    let error = match wait::until(context, libvirt, name, sign, timeout) {
        Ok(item) => return Ok(item),
        Err(error) => error,
    };
    if action != Action::Create || args.on_timeout == OnTimeout::Keep {
        return Err(error.applied([format!("domain '{name}' is kept")]));
    }
    match remove::remove(&context.host, libvirt, name, &domain.uuid) {
        Ok(()) => Err(error),
        // Another domain has the name by now: the one that was made is gone.
        Err(other) if other.to_document().error.code == Some(Code::IdentityChanged) => Err(error),
        Err(_) => Err(error.left_behind([format!("domain '{name}'")])),
    }
}
