//! `tdx-td start`: domains run.

use clap::Args;
use common::cli::{Change, Context};
use common::document::Document;
use common::libvirt::Libvirt;
use common::output::Outcome;
use common::{Result, interrupt, parallel};

use crate::names::{self, NameArgs};
use crate::passthrough;
use crate::power::PowerItem;

/// Arguments of `start`.
#[derive(Debug, Args)]
pub struct StartArgs {
    #[command(flatten)]
    names: NameArgs,
    #[command(flatten)]
    change: Change,
}

/// Starts each domain that is off and resumes each that is paused.
///
/// Devices of the host that a domain was made with and that VFIO has no more, after a reboot, are taken
/// again.
pub fn run(
    context: &Context,
    connect: impl FnOnce() -> Result<Libvirt>,
    args: StartArgs,
) -> Result<Outcome> {
    let wanted = args.names.read()?;
    interrupt::guard();
    let libvirt = connect()?;
    let dry_run = args.change.dry_run;
    let start = |name: String| {
        interrupt::check()?;
        let domain = names::get(&libvirt, &name)?;
        let action = match dry_run {
            true => passthrough::imagined(&context.host, &libvirt, &domain, &name)?,
            false => passthrough::bring_up(&context.host, &libvirt, &domain, &name)?,
        };
        Ok(PowerItem { name, forced: false, action })
    };
    let started = parallel::map(wanted, parallel::GUESTS, start);
    let items = parallel::settle(started, |item| item.applied(dry_run))?;
    Ok(Document::new("tdx.td.start", items).dry_run(dry_run).into())
}
