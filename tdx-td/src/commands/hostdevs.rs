//! `tdx-td hostdevs`: sets the host devices of domains to exactly those that a file lists.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use common::cli::{Change, Context, interrupt, seconds};
use common::document::Document;
use common::document::output::Outcome;
use common::libvirt::Libvirt;
use common::system::pci::Bdf;
use common::{Code, Error, Result};
use tdx_gpu::vfio::hostdev::HostdevOptions;
use tdx_iommu::resolve::passthrough_config;
use tdx_iommu::resolve::resolution::Resolution;

use crate::capability;
use crate::domain::lookup::NamedDomain;
use crate::passthrough::plan::HostdevsPlan;
use crate::passthrough::resolution::{DomainDevices, PipedResolution};

const EXAMPLES: &str = "Examples:
  tdx-td hostdevs --config passthrough.yaml --dry-run
  tdx-td hostdevs --config passthrough.yaml --vm web1 --live --yes
  tdx-iommu resolve | tdx-td hostdevs - --dry-run";

/// Arguments of `hostdevs`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct HostdevsArgs {
    /// Read the output of tdx-iommu resolve from standard input
    #[arg(value_name = "-", value_parser = ["-"], conflicts_with = "config")]
    stdin: Option<String>,
    /// Path of the passthrough configuration, which lists the host devices of each domain [default:
    /// passthrough_config.yaml]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Change only this domain (repeatable)
    #[arg(long, value_name = "NAME")]
    vm: Vec<String>,
    /// Do not add or remove this device, whatever the file says (repeatable)
    #[arg(long, value_name = "BDF")]
    keep: Vec<Bdf>,
    /// Use a device despite the blocker with this code (repeatable); cannot be combined with the
    /// argument -
    #[arg(long, value_name = "CODE", value_parser = Code::to_force, conflicts_with = "stdin")]
    force: Vec<Code>,
    /// Also attach devices to, and detach them from, running domains
    #[arg(long)]
    live: bool,
    /// Hide option ROMs from unprotected guests as well; protected guests never see them
    #[arg(long)]
    no_rom: bool,
    /// Maximum time to wait for a guest to release a device, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = seconds())]
    #[arg(requires = "live")]
    timeout: u64,
    /// Write the planned definition of each domain to a file; if FILE is plan.xml, the file of domain
    /// web1 is plan_web1.xml
    #[arg(long, value_name = "FILE")]
    debug_xml: Option<PathBuf>,
    #[command(flatten)]
    change: Change,
}

/// Plans the changes of all domains, then changes one domain after another. If one fails, the changes are
/// undone.
pub fn run(
    context: &Context,
    connect: impl FnOnce() -> Result<Libvirt>,
    args: HostdevsArgs,
) -> Result<Outcome> {
    let keep: BTreeSet<Bdf> = args.keep.into_iter().collect();
    let piped = args.stdin.map(|_| PipedResolution::read(&args.vm, &keep)).transpose()?;
    let libvirt = connect()?;
    interrupt::guard();
    let (resolved, mut warnings) = match &piped {
        Some(piped) => {
            let unseen = piped.check(context, &libvirt)?;
            (piped.domains(), [piped.warnings(), unseen].concat())
        }
        None => in_file(context, &libvirt, args.config, &args.vm, &args.force)?,
    };
    let iommufd = libvirt.is_local() && capability::has_iommufd(&context.host, &libvirt)?;
    let way = HostdevOptions { iommufd, managed: true, no_rom: args.no_rom };
    let host_name = context.host_name();
    let plan = HostdevsPlan::new(&libvirt, host_name.as_deref(), &resolved, &keep, way, args.live)?;
    warnings.extend(plan.warnings.iter().cloned());
    // The resolution of a file warned of shared devices already.
    if piped.is_some() {
        warnings.extend(plan.shared.iter().cloned());
    }
    match &args.debug_xml {
        Some(_) if args.change.dry_run => {
            warnings.push("--debug-xml is ignored with --dry-run".to_owned());
        }
        Some(path) => plan.write_proposals(path)?,
        None => {}
    }
    let changed = plan.changed();
    if !changed.is_empty() {
        plan.diffs().for_each(|diff| context.show_diff(diff));
        let question = format!("change the devices of {}?", changed.join(", "));
        context.confirm(args.change, &question)?;
    }
    let items = if args.change.dry_run {
        plan.items()
    } else {
        plan.apply(&libvirt, Duration::from_secs(args.timeout))?
    };
    let document = Document::new("tdx.td.hostdevs", items);
    Ok(document.dry_run(args.change.dry_run).warnings(warnings).into())
}

/// Returns the devices that a file lists for domains of this host.
fn in_file(
    context: &Context,
    libvirt: &Libvirt,
    config: Option<PathBuf>,
    vms: &[String],
    force: &[Code],
) -> Result<(Vec<DomainDevices>, Vec<String>)> {
    if !libvirt.is_local() {
        return Err(Error::unsupported("PCI devices of a remote host cannot be read from here")
            .hint("ssh HOST tdx-iommu resolve | tdx-td --connect URI hostdevs -"));
    }
    let config = config.unwrap_or_else(|| passthrough_config::DEFAULT_FILE.into());
    let Resolution { items, warnings } = Resolution::new(&context.host, &config, vms, force)?;
    let wanted = items.into_iter().map(|item| DomainDevices {
        devices: item.devices.iter().map(|device| device.device.bdf).collect(),
        domain: NamedDomain::from(item.vm),
    });
    Ok((wanted.collect(), warnings))
}
