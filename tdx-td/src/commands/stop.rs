//! `tdx-td stop`: shuts domains down.

use std::time::Duration;

use clap::Args;
use common::cli::{Change, Context, interrupt, seconds};
use common::document::output::Outcome;
use common::document::{Action, Document};
use common::libvirt::Libvirt;
use common::{Error, Result, parallel};

use crate::commands::args::names::NameArgs;
use crate::domain::lookup::NamedDomain;
use crate::domain::power::PowerItem;
use crate::domain::{lookup, power};

const EXAMPLES: &str = "Examples:
  tdx-td stop web1 db1
  tdx-td stop web1 --timeout 120
  tdx-td list --json | jq '.items[] | select(.state==\"running\")' | tdx-td stop -";

/// Arguments of `stop`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct StopArgs {
    #[command(flatten)]
    names: NameArgs,
    /// Maximum time to wait for a guest to shut down, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = seconds())]
    timeout: u64,
    /// Force the guest off at once, without a clean shutdown
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    change: Change,
}

/// Shuts all domains down in parallel, and waits for each.
///
/// Errors: `conflict` (exit 5) for a guest that is still running when its time is up.
pub fn run(
    context: &Context,
    connect: impl FnOnce() -> Result<Libvirt>,
    args: StopArgs,
) -> Result<Outcome> {
    let wanted = args.names.read()?;
    let libvirt = connect()?;
    interrupt::guard();
    let dry_run = args.change.dry_run;
    let timeout = Duration::from_secs(args.timeout);
    let host_name = context.host_name();
    let stop = |named: NamedDomain| {
        interrupt::check()?;
        let domain = named.get(&libvirt, host_name.as_deref())?;
        let (name, uuid) = (named.name, lookup::uuid(&domain)?);
        let item =
            |action| PowerItem { name: name.clone(), uuid, forced: false, attested: None, action };
        if !power::is_active(&domain, &name)? {
            return Ok(item(Action::None));
        }
        match (dry_run, args.force) {
            (true, _) => {}
            (false, true) => power::destroy(&domain, &name)?,
            (false, false) => {
                if !power::shut_down(&domain, &name, timeout)? {
                    return Err(still_running(&name, args.timeout));
                }
            }
        }
        Ok(PowerItem { forced: args.force, ..item(Action::Stop) })
    };
    let stopped = parallel::map(wanted, parallel::GUESTS, stop);
    let items = parallel::settle(stopped, |item| item.applied(dry_run))?;
    Ok(Document::new("tdx.td.stop", items).dry_run(dry_run).into())
}

fn still_running(name: &str, waited: u64) -> Error {
    Error::conflict(format!("domain '{name}' is still running after {waited} s")).hint(format!(
        "to force the domain off, run tdx-td stop {name} --force; to wait longer, add --timeout \
             SECONDS"
    ))
}
