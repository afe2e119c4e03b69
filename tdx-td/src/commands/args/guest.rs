//! What a new guest is to have.

use std::path::PathBuf;

use clap::Args;
use common::document::input;
use common::units::{MEMORY, Size};
use common::{Error, Result};
use serde_json::Value;

use crate::capability::{Security, VirtTypeArg};
use crate::commands::args::access::AccessArgs;
use crate::commands::args::devices::DeviceArgs;
use crate::commands::args::disk::DiskArgs;
use crate::commands::args::image::ImageArgs;
use crate::commands::args::launch::LaunchArgs;
use crate::commands::args::scenario::ScenarioArgs;
use crate::create::ports::PortRequest;
use crate::create::request::{CreationRequest, GuestRequest};
use crate::create::settings::{MIN_MEMORY, domain_name};
use crate::scenario::assignments::FlagSetting;
use crate::scenario::resolve::RequestedSettings;
use crate::scenario::value::size_value;

/// What the guest is to have.
#[derive(Debug, Args)]
pub struct GuestArgs {
    /// Domain XML with placeholders, instead of the built-in definition
    #[arg(short = 't', long, value_name = "FILE")]
    #[arg(conflicts_with_all = ["security", "network", "virt_type", "hotplug_ports"])]
    #[arg(conflicts_with_all = ["scenario", "set", "user_settings", "machine", "boot"])]
    pub xml_template: Option<PathBuf>,
    /// Translate what this libvirt would drop from the template, and close the ports it opens
    #[arg(long)]
    pub fix_template: bool,
    /// The domain's name [default: tdvirsh-KIND-UUID; KIND is the template's, or trust_domain,
    /// regular_vm, sev_guest]
    #[arg(long, value_parser = domain_name)]
    pub name: Option<String>,
    /// Have a domain of that name deleted, with its own disks, unless it is as asked for; asks first
    #[arg(long, requires = "name")]
    pub overwrite: bool,
    /// Launch security [default: tdx, or the best of the scenario's]
    #[arg(long, value_enum)]
    pub security: Option<Security>,
    /// Memory [default: the template's, else 8G, or half of a smaller host]
    #[arg(long, value_name = "SIZE", value_parser = memory)]
    pub memory: Option<Size>,
    /// Virtual CPUs [default: the template's, else 4, or what a smaller host has]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub vcpus: Option<u32>,
    /// libvirt network [default: default]
    #[arg(long, value_name = "NETWORK")]
    pub network: Option<String>,
    /// Accelerator [default: auto]
    #[arg(long, value_enum, value_name = "TYPE")]
    pub virt_type: Option<VirtTypeArg>,
    /// Free PCI Express ports for devices plugged in later
    #[arg(long, value_name = "N", default_value_t = 8)]
    #[arg(value_parser = clap::value_parser!(u32).range(0..=64))]
    pub hotplug_ports: u32,
    /// A port of this host that leads to the guest's ssh; auto takes a free one of 127.0.0.1
    #[arg(long, value_name = "auto|[ADDRESS:]PORT")]
    pub ssh_port: Option<PortRequest>,
    /// What it is for.
    #[command(flatten)]
    pub scenario: ScenarioArgs,
    /// How it is protected.
    #[command(flatten)]
    pub launch: LaunchArgs,
    /// Who may log in.
    #[command(flatten)]
    pub seed: AccessArgs,
    /// Its disk, when it is no overlay.
    #[command(flatten)]
    pub disk: DiskArgs,
    /// Devices of the host.
    #[command(flatten)]
    pub devices: DeviceArgs,
}

impl GuestArgs {
    /// Returns what the flags ask for, reading files and standard input where they say so.
    ///
    /// Errors: `usage` when image and devices are both to be on standard input; those of
    /// [`AccessArgs::read`], [`ImageArgs::read`] and [`DeviceArgs::read`].
    pub fn read(self, image: &ImageArgs) -> Result<CreationRequest> {
        let settings = self.requested_settings();
        let access = self.seed.read()?;
        if self.devices.on_stdin() && image.base.as_deref() == Some(input::STDIN) {
            return Err(Error::usage("--base - and --devices - cannot both read standard input"));
        }
        let (image, devices) = (image.read()?, self.devices.read()?);
        let guest = GuestRequest {
            template: self.xml_template,
            fix_template: self.fix_template,
            name: self.name,
            overwrite: self.overwrite,
            security: self.security,
            memory: self.memory,
            vcpus: self.vcpus,
            virt_type: self.virt_type,
            hotplug_ports: self.hotplug_ports,
            ssh_port: self.ssh_port,
            settings,
            launch: self.launch.options(),
            access,
            disk: self.disk.into(),
        };
        Ok(CreationRequest { guest, image, devices })
    }

    /// Returns the settings that the flags ask for over those of the scenario.
    fn requested_settings(&self) -> RequestedSettings {
        let boot_cd = self.disk.cdrom.is_some() && self.scenario.boot.is_none();
        let flag = |flag, setting, value| FlagSetting { flag, setting, value };
        let mut flags: Vec<FlagSetting> = self.scenario.flag_settings().into();
        flags.extend([
            flag("--memory", "guest.memory", self.memory.map(size_value)),
            flag("--vcpus", "guest.vcpus", self.vcpus.map(Value::from)),
            flag("--network", "guest.network", self.network.clone().map(Value::from)),
            flag("--blank", "storage.capacity", self.disk.blank.map(size_value)),
            flag("--cdrom", "guest.boot", boot_cd.then(|| "cdrom".into())),
        ]);
        let assignments = self.scenario.assignments.assignments();
        RequestedSettings { scenario: self.scenario.scenario.clone(), assignments, flags }
    }
}

fn memory(text: &str) -> Result<Size, String> {
    let size: Size = text.parse()?;
    if size.0 < MIN_MEMORY {
        return Err(format!("{size} is too little for a guest: at least {}", Size(MIN_MEMORY)));
    }
    if size.0 > *MEMORY.end() {
        return Err(format!("{size} is too much for a guest: at most {}", Size(*MEMORY.end())));
    }
    Ok(size)
}
