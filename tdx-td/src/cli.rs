//! The command line. Types only: each verb's own arguments stand beside the verb.

use clap::{Parser, Subcommand};
use common::Result;
use common::cli::config::Config;
use common::cli::{Context, Globals, Tool};
use common::document::Item;
use common::document::output::Outcome;
use common::libvirt::{ConnectArgs, Libvirt};

use crate::commands::{
    console, delete, firmware, host, hostdevs, list, new, overlay, render, scenario, show, ssh,
    start, stop, virsh,
};
use crate::domain::{item, power};
use crate::passthrough::item::HostdevsItem;
use crate::remove;

/// Trust domains and ordinary guests: create, list, inspect, stop, delete
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
    /// Create a domain over a base image, and start it
    New(new::NewArgs),
    /// Show the XML that new would define; touch nothing
    Render(render::RenderArgs),
    /// Create an overlay over a base image, without a domain
    Overlay(overlay::OverlayArgs),
    /// Show all domains
    List(list::ListArgs),
    /// Show domains with everything known of them, asking their guest agents too
    Show(show::ShowArgs),
    /// Start domains
    Start(start::StartArgs),
    /// Shut domains down, and wait until they are off
    Stop(stop::StopArgs),
    /// Shut domains down and remove them with their own disks, never the base image
    Delete(delete::DeleteArgs),
    /// Have domains defined with the devices of the host that a file, or tdx-iommu resolve, says
    Hostdevs(hostdevs::HostdevsArgs),
    /// Show scenarios, and the settings that they are made of
    #[command(subcommand)]
    Scenario(scenario::ScenarioVerb),
    /// Show the firmware builds that guests can have, in the order in which they are tried
    #[command(arg(firmware::connect_flag()))]
    Firmware(firmware::FirmwareArgs),
    /// Judge the host, tune it to a scenario, restore it
    Host(host::HostArgs),
    /// Open a domain's serial console (Ctrl-] leaves it)
    Console(console::ConsoleArgs),
    /// Log in to a domain, or run a command in it
    Ssh(ssh::SshArgs),
    /// Hand the rest of the line over to virsh
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
        // A captured tree has no libvirt of its own; whoever names one means it.
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
