//! `tdx-td hostdevs`: domains are defined with just the devices of the host that they are to have.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use common::cli::{Change, Context, interrupt, seconds};
use common::document::output::Outcome;
use common::document::{Action, Document, Item};
use common::libvirt::Libvirt;
use common::system::pci::Bdf;
use common::{Code, Error, Result};
use schemars::JsonSchema;
use serde::Serialize;
use tdx_gpu::vfio::hostdev::HostdevOptions;
use tdx_iommu::resolve::passthrough_config;
use tdx_iommu::resolve::resolution::Resolution;

use crate::capability;
use crate::commands::names::Named;
use crate::passthrough::plan::Plan;
use crate::passthrough::resolution::Piped;

/// Arguments of `hostdevs`.
#[derive(Debug, Args)]
pub struct HostdevsArgs {
    /// What tdx-iommu resolve printed, on standard input
    #[arg(value_name = "-", value_parser = ["-"], conflicts_with = "config")]
    stdin: Option<String>,
    /// A file that says which devices domains are to have [default: passthrough_config.yaml]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Only this domain (repeatable)
    #[arg(long, value_name = "NAME")]
    vm: Vec<String>,
    /// Leave this device as it is, whatever the file says (repeatable)
    #[arg(long, value_name = "BDF")]
    keep: Vec<Bdf>,
    /// Take a device in spite of this code, with a file (repeatable)
    #[arg(long, value_name = "CODE", value_parser = Code::to_force, conflicts_with = "stdin")]
    force: Vec<Code>,
    /// Plug devices into, and out of, domains that run as well
    #[arg(long)]
    live: bool,
    /// Hide the option ROMs from guests that are not protected, too; protected guests never see one
    #[arg(long)]
    no_rom: bool,
    /// How long to wait for a guest to let go of a device
    #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = seconds())]
    #[arg(requires = "live")]
    timeout: u64,
    /// Write the definitions that are proposed to files of this name, each with its domain's in it
    #[arg(long, value_name = "FILE")]
    debug_xml: Option<PathBuf>,
    #[command(flatten)]
    change: Change,
}

/// A domain and the devices of the host it is defined with.
#[derive(Debug, Serialize, JsonSchema)]
pub struct HostdevsItem {
    /// Name.
    pub(crate) name: String,
    /// UUID.
    pub(crate) uuid: String,
    /// Devices it got.
    pub(crate) added: Vec<Bdf>,
    /// Devices it lost.
    pub(crate) removed: Vec<Bdf>,
    /// Devices it had and has, with their addresses in the guest.
    pub(crate) kept: Vec<Bdf>,
    /// Devices that its running guest got or lost, with `--live`.
    pub(crate) live: Vec<Bdf>,
    /// Whether it runs, so that its guest has what was not changed live only once it has been off.
    pub(crate) running: bool,
    /// The change of its definition, a unified diff without passwords; empty for none.
    pub(crate) diff: String,
    /// `update`, or `none`.
    pub(crate) action: Action,
}

impl Item for HostdevsItem {
    const COLUMNS: &'static [&'static str] = &["NAME", "ACTION", "ADDED", "REMOVED", "KEPT"];
    const WRAPPED: &'static [&'static str] = &["ADDED", "REMOVED", "KEPT"];

    fn key(&self) -> Cow<'_, str> {
        self.name.as_str().into()
    }

    fn row(&self) -> Vec<String> {
        let list = |bdfs: &[Bdf]| bdfs.iter().map(Bdf::to_string).collect::<Vec<_>>().join(" ");
        vec![
            self.name.clone(),
            self.action.to_string(),
            list(&self.added),
            list(&self.removed),
            list(&self.kept),
        ]
    }

    fn action(&self) -> Option<Action> {
        Some(self.action)
    }
}

/// Plans all domains, then changes one after another, and puts them back when one fails.
pub fn run(
    context: &Context,
    connect: impl FnOnce() -> Result<Libvirt>,
    args: HostdevsArgs,
) -> Result<Outcome> {
    let keep: BTreeSet<Bdf> = args.keep.into_iter().collect();
    let piped = args.stdin.map(|_| Piped::read(&args.vm, &keep)).transpose()?;
    let libvirt = connect()?;
    interrupt::guard();
    let (resolved, mut warnings) = match &piped {
        Some(piped) => {
            let unseen = piped.check(context, &libvirt)?;
            (piped.wanted(), [piped.warnings(), unseen].concat())
        }
        None => in_file(context, &libvirt, args.config, &args.vm, &args.force)?,
    };
    let iommufd = libvirt.is_local() && capability::has_iommufd(&context.host, &libvirt)?;
    let way = HostdevOptions { iommufd, managed: true, no_rom: args.no_rom };
    let host_name = context.host_name();
    let plan = Plan::new(&libvirt, host_name.as_deref(), &resolved, &keep, way, args.live)?;
    // A resolution of this command has warned of shared devices before.
    let new = plan.warnings.iter().filter(|warning| !warnings.contains(warning));
    let new: Vec<String> = new.cloned().collect();
    warnings.extend(new);
    match &args.debug_xml {
        Some(_) if args.change.dry_run => {
            warnings.push("--debug-xml writes no file with --dry-run".to_owned());
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
    let items = match args.change.dry_run {
        true => plan.items(),
        false => plan.apply(&libvirt, Duration::from_secs(args.timeout))?,
    };
    let document = Document::new("tdx.td.hostdevs", items);
    Ok(document.dry_run(args.change.dry_run).warnings(warnings).into())
}

/// Domains with the devices that they are to have.
pub(crate) type Wanted = Vec<(Named, BTreeSet<Bdf>)>;

/// The devices that a file wants for domains of this host.
fn in_file(
    context: &Context,
    libvirt: &Libvirt,
    config: Option<PathBuf>,
    vms: &[String],
    force: &[Code],
) -> Result<(Wanted, Vec<String>)> {
    if !libvirt.is_local() {
        return Err(Error::unsupported("the devices of another host cannot be seen from here")
            .hint("tdx-iommu resolve there, and pipe what it prints into tdx-td hostdevs -"));
    }
    let config = config.unwrap_or_else(|| passthrough_config::DEFAULT_FILE.into());
    let Resolution { items, warnings } = Resolution::new(&context.host, &config, vms, force)?;
    let wanted = items.into_iter().map(|item| {
        let devices = item.devices.iter().map(|device| device.device.bdf);
        (Named::from(item.vm.clone()), devices.collect())
    });
    Ok((wanted.collect(), warnings))
}
