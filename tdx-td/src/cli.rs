//! The command line of `tdx-td`: its verbs and global flags. Each verb's module has that verb's arguments.

use clap::{Parser, Subcommand};
use common::Result;
use common::cli::config::Config;
use common::cli::{Context, Globals, Tool};
use common::document::Item;
use common::document::output::Outcome;
use common::libvirt::{ConnectArgs, Libvirt};

use crate::commands::{
    console, delete, evidence, firmware, host, hostdevs, list, new, overlay, render, scenario,
    show, ssh, start, stop, virsh,
};
use crate::domain::{item, power};
use crate::evidence::item::EvidenceItem;
use crate::passthrough::item::HostdevsItem;
use crate::remove;

/// Create, list, inspect, stop and delete guests: Intel TDX trust domains, AMD SEV guests and ordinary guests
///
/// A domain is a guest as libvirt knows it. A trust domain is a guest whose memory Intel TDX protects from the host.
/// A scenario is a set of default settings for a kind of guest.
#[derive(Debug, Parser)]
#[command(name = "tdx-td", version, after_help = EXAMPLES)]
pub struct Cli {
    #[command(flatten)]
    globals: Globals,
    #[command(flatten)]
    connect: ConnectArgs,
    #[command(subcommand)]
    verb: Verb,
}

const EXAMPLES: &str = "Examples:
  tdx-td new -i guest.qcow2
  tdx-td new -i guest.qcow2 --security none --name web1 --memory 4G --vcpus 2
  tdx-pool import guest.qcow2 | tdx-td new --base -
  tdx-td new -i guest.qcow2 --gpus 17:00.0,3b:00.0
  tdx-iommu resolve | tdx-td hostdevs - --dry-run
  tdx-td --host epyc1 list
  tdx-td start --attest vault
  tdx-td list --json | jq -r '.items[] | select(.state==\"running\") | .name'
  tdx-td delete web1 --yes
  tdx-td host check --for tdx --for vfio";

#[derive(Debug, Subcommand)]
enum Verb {
    /// Create a domain from a disk image, and start it
    New(new::NewArgs),
    /// Print the domain XML that tdx-td new would define; change nothing
    Render(render::RenderArgs),
    /// Create an overlay backed by a base image, without a domain
    Overlay(overlay::OverlayArgs),
    /// List all domains with their states and addresses
    List(list::ListArgs),
    /// Show all details of domains, including the reports of their guest agents
    Show(show::ShowArgs),
    /// Start domains that are shut off, and resume paused ones
    Start(start::StartArgs),
    /// Shut domains down, and wait until they are shut off
    Stop(stop::StopArgs),
    /// Shut domains down, then delete the domains and the disks created for them; base images are kept
    Delete(delete::DeleteArgs),
    /// Get the quote and the event log of a running trust domain, for a verifier
    Evidence(evidence::EvidenceArgs),
    /// Set the host devices of domains from a passthrough configuration or from the output of tdx-iommu
    /// resolve
    Hostdevs(hostdevs::HostdevsArgs),
    /// Show scenarios and their settings
    #[command(subcommand)]
    Scenario(scenario::ScenarioVerb),
    /// List the firmware builds for guests, in the order in which libvirt tries them
    #[command(arg(firmware::connect_flag()))]
    Firmware(firmware::FirmwareArgs),
    /// Check whether this host can run guests; tune this host for a scenario, or undo the tuning
    Host(host::HostArgs),
    /// Open a domain's serial console (Ctrl-] leaves it)
    Console(console::ConsoleArgs),
    /// Log in to a domain with ssh, or run a command in it
    Ssh(ssh::SshArgs),
    /// Run virsh with the rest of the line as its arguments
    Virsh(virsh::VirshArgs),
}

impl Tool for Cli {
    const NAME: &'static str = "tdx-td";

    fn globals(&self) -> &Globals {
        &self.globals
    }

    fn has_metrics(&self) -> bool {
        matches!(self.verb, Verb::List(_))
    }

    fn columns(&self) -> &'static [&'static str] {
        match &self.verb {
            Verb::New(_) => new::NewItem::COLUMNS,
            Verb::Render(_) => render::RenderItem::COLUMNS,
            Verb::Overlay(_) => overlay::OverlayItem::COLUMNS,
            Verb::List(_) | Verb::Show(_) => item::DomainItem::COLUMNS,
            Verb::Start(_) | Verb::Stop(_) => power::PowerItem::COLUMNS,
            Verb::Delete(_) => remove::DeleteItem::COLUMNS,
            Verb::Evidence(_) => EvidenceItem::COLUMNS,
            Verb::Hostdevs(_) => HostdevsItem::COLUMNS,
            Verb::Scenario(verb) => verb.columns(),
            Verb::Firmware(_) => firmware::FirmwareItem::COLUMNS,
            Verb::Host(args) => args.columns(),
            Verb::Console(_) | Verb::Ssh(_) | Verb::Virsh(_) => &[],
        }
    }

    fn run(self, context: &Context) -> Result<Outcome> {
        let config = Config::load(&context.host)?;
        let target = self.connect.target(&context.host, &config)?;
        let libvirt = || Libvirt::open_for(context, &target);
        // With --sysroot, libvirt is queried only if --connect or --host names a connection.
        let may_ask = context.host.is_this_machine() || self.connect.is_given();
        match self.verb {
            Verb::New(args) => new::run(context, libvirt, &config, args),
            Verb::Render(args) => render::run(context, libvirt, &config, args),
            Verb::Overlay(args) => overlay::run(context, libvirt, &config, args),
            Verb::List(args) => list::run(context, &libvirt()?, args),
            Verb::Show(args) => show::run(context, libvirt, args),
            Verb::Start(args) => start::run(context, libvirt, args),
            Verb::Stop(args) => stop::run(context, libvirt, args),
            Verb::Delete(args) => delete::run(context, libvirt, args),
            Verb::Evidence(args) => evidence::run(context, libvirt, args),
            Verb::Hostdevs(args) => hostdevs::run(context, libvirt, args),
            Verb::Scenario(verb) => scenario::run(context, &config, verb),
            Verb::Firmware(args) => firmware::run(context, libvirt, may_ask, args),
            Verb::Host(args) => {
                let default = std::env::var("LIBVIRT_DEFAULT_URI").ok();
                let uri = target.uri.as_ref().or(default.as_ref());
                host::run(context, libvirt, (may_ask, uri.map(String::as_str)), &config, args)
            }
            Verb::Console(args) => Err(console::run(&target, args)),
            Verb::Ssh(args) => ssh::run(context, libvirt, args),
            Verb::Virsh(args) => Err(virsh::run(&target, args)),
        }
    }
}
