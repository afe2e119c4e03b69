//! `tdx-td start`: domains run.

use clap::Args;
use common::cli::Change;
use common::document::{Action, Document};
use common::libvirt::{Context, Libvirt};
use common::output::Outcome;
use common::{Result, interrupt, log};
use virt::sys;

use crate::names::{self, NameArgs};
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
pub fn run(connect: impl FnOnce() -> Result<Libvirt>, args: StartArgs) -> Result<Outcome> {
    let wanted = args.names.read()?;
    interrupt::guard();
    let libvirt = connect()?;
    let dry_run = args.change.dry_run;
    let start = |name: &str| {
        interrupt::check()?;
        let domain = names::get(&libvirt, name)?;
        let (state, _) = domain.state().context(format_args!("ask about domain '{name}'"))?;
        let action = match state.to_raw() {
            sys::VIR_DOMAIN_SHUTOFF | sys::VIR_DOMAIN_CRASHED => Action("start"),
            sys::VIR_DOMAIN_PAUSED => Action("resume"),
            sys::VIR_DOMAIN_PMSUSPENDED => Action("wake"),
            _ => Action::NONE,
        };
        if action != Action::NONE && !dry_run {
            log::step(format_args!("{} domain '{name}'", action.0));
            let done = match action.0 {
                "start" => domain.create(),
                "resume" => domain.resume(),
                _ => domain.pm_wakeup(0),
            };
            done.context(format_args!("{} domain '{name}'", action.0))?;
        }
        Ok(PowerItem { name: name.to_owned(), forced: false, action })
    };
    let items = names::each(&wanted, start, |item| item.applied(dry_run))?;
    Ok(Document::new("tdx.td.start", items).dry_run(dry_run).into())
}
