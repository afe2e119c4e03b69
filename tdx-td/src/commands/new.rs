//! `tdx-td new`: creates a domain from a disk image and starts it.

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

const EXAMPLES: &str = "Examples:
  tdx-td new -i guest.qcow2
  tdx-td new -i guest.qcow2 --security none --name web1 --memory 4G --vcpus 2
  tdx-td new -i guest.qcow2 --name web1 --user admin --ssh-key id_ed25519.pub --wait ssh
  tdx-td new -i guest.qcow2 --scenario computation --dry-run
  tdx-td new -i guest.qcow2 --gpus 17:00.0,3b:00.0
  tdx-td new --blank 20G --cdrom install.iso --security none
  tdx-pool import guest.qcow2 | tdx-td new --base -";

/// Arguments of `new`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct NewArgs {
    #[command(flatten)]
    image: ImageArgs,
    #[command(flatten)]
    guest: GuestArgs,
    /// First change the settings of this host to the values that the scenario recommends, as tdx-td
    /// host tune does; asks for confirmation
    #[arg(long, requires = "scenario", help_heading = "Host")]
    tune_host: bool,
    #[command(flatten)]
    wait: WaitArgs,
    #[command(flatten, next_help_heading = None::<&str>)]
    change: Change,
}

/// A domain, and what `new` did so that it runs.
#[derive(Debug, Serialize, JsonSchema)]
pub struct NewItem {
    #[serde(flatten)]
    domain: DomainItem,
    /// `create` for a new domain. For an existing domain that is as requested: `start`, `resume`, `wake`, or
    /// `none` if it was running.
    action: Action,
}

impl Item for NewItem {
    const COLUMNS: &'static [&'static str] =
        &["ACTION", "ID", "NAME", "STATE", "SECURITY", "IP", "SSH", "CID"];
    const DROPPED: &'static [&'static str] = DomainItem::DROPPED;

    fn key(&self) -> Cow<'_, str> {
        self.domain.key()
    }

    fn row(&self) -> Vec<String> {
        [vec![self.action.to_string()], self.domain.row()].concat()
    }

    fn action(&self) -> Option<Action> {
        Some(self.action)
    }
}

/// Creates and starts a domain, or starts an existing one that is as requested.
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

/// Sets the host to the values that the scenario recommends if `tune_host` is given, else compares them.
/// Returns what was done, and warnings.
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
        // The guest can run without the tuning.
        Err(error) if !tune_host => {
            let warning = format!(
                "the settings of this host were not compared with those of scenario {scenario}: {error}"
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
            "settings of this host differ from the recommendations of scenario {scenario} (to change the \
             settings, run {how}): {}",
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
    Ok((Some(format!("tuned this host for scenario {scenario}")), Vec::new()))
}

/// Waits for the guest. If it was created just now and does not come up in time, `--on-timeout delete` deletes
/// it.
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
        return Err(error.applied([format!("kept domain '{name}'")]));
    }
    match remove::remove(&context.host, libvirt, name, &domain.uuid) {
        Ok(()) => Err(error),
        // Another domain has the name now: the new one is gone already.
        Err(other) if other.to_document().error.code == Some(Code::IdentityChanged) => Err(error),
        Err(_) => Err(error.left_behind([format!("domain '{name}'")])),
    }
}
