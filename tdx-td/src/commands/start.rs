//! `tdx-td start`: starts or resumes domains.

use clap::Args;
use common::cli::{Change, Context, interrupt};
use common::document::output::Outcome;
use common::document::{Action, Document};
use common::libvirt::Libvirt;
use common::{Result, parallel};

use crate::commands::args::names::NameArgs;
use crate::domain::lookup::NamedDomain;
use crate::domain::power::PowerItem;
use crate::domain::{definition, lookup};
use crate::passthrough;
use crate::security::attestation::Attestation;

/// Arguments of `start`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct StartArgs {
    #[command(flatten)]
    names: NameArgs,
    /// Verify the launch measurement of each domain, also of running domains; fail for a domain that is
    /// not an AMD SEV or SEV-ES guest with stored session keys
    #[arg(long)]
    attest: bool,
    #[command(flatten)]
    change: Change,
}

const EXAMPLES: &str = "Examples:
  tdx-td start web1
  tdx-td list --json | jq '.items[] | select(.autostart)' | tdx-td start -
  tdx-td start --attest vault1";

/// Starts each domain that is shut off and resumes each that is paused.
///
/// Host devices of a domain that are not bound to VFIO, as after a reboot, are bound again. A guest whose
/// session keys are kept runs only if its launch measurement is the expected one.
pub fn run(
    context: &Context,
    connect: impl FnOnce() -> Result<Libvirt>,
    args: StartArgs,
) -> Result<Outcome> {
    let wanted = args.names.read()?;
    let libvirt = connect()?;
    interrupt::guard();
    let host_name = context.host_name();
    let dry_run = args.change.dry_run;
    let start = |named: NamedDomain| {
        interrupt::check()?;
        let domain = named.get(&libvirt, host_name.as_deref())?;
        let (name, uuid) = (named.name, lookup::uuid(&domain)?);
        let definition = definition::inactive(&domain, &name)?;
        let attestation = if args.attest {
            Some(Attestation::require(&context.host, &libvirt, &definition)?)
        } else {
            Attestation::find(&context.host, &libvirt, &definition)?
        };
        if let (true, Some(attestation)) = (dry_run || args.attest, &attestation) {
            attestation.check(&definition)?;
        }
        let action = if dry_run {
            passthrough::preview_start(&context.host, &libvirt, &domain, &name)?
        } else {
            passthrough::start_or_resume(&context.host, &libvirt, &domain, &name)?
        };
        let mut caveats = Vec::new();
        let attested = match &attestation {
            Some(attestation) if !dry_run && (args.attest || action != Action::None) => {
                // The launch of a domain that was running already has not been verified yet.
                if action == Action::None && !attestation.is_launch_verified(&domain)? {
                    return Err(attestation.not_attested());
                }
                caveats = attestation.caveats(&definition);
                Some(true)
            }
            _ => None,
        };
        Ok((PowerItem { name, uuid, forced: false, attested, action }, caveats))
    };
    let started = parallel::map(wanted, parallel::GUESTS, start);
    let started = parallel::settle(started, |(item, _)| item.applied(dry_run))?;
    let (items, caveats): (Vec<_>, Vec<_>) = started.into_iter().unzip();
    Ok(Document::new("tdx.td.start", items).dry_run(dry_run).warnings(caveats.concat()).into())
}
