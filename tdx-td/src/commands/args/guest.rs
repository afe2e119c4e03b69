//! The flags that describe a new guest.

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

/// The flags that describe a new guest.
#[derive(Debug, Args)]
#[command(next_help_heading = "Definition")]
pub struct GuestArgs {
    /// Domain XML with placeholders, used instead of the built-in definition
    #[arg(short = 't', long, value_name = "FILE")]
    #[arg(conflicts_with_all = ["security", "network", "virt_type", "hotplug_ports"])]
    #[arg(conflicts_with_all = ["scenario", "set", "user_settings", "machine", "boot"])]
    pub xml_template: Option<PathBuf>,
    /// Translate or remove parts of the template that this version of libvirt does not support, and
    /// change listening addresses to 127.0.0.1
    #[arg(long)]
    pub fix_template: bool,
    /// Name of the domain [default: tdvirsh-KIND-UUID; KIND is the template's name, or trust_domain,
    /// sev_guest or regular_vm]
    #[arg(long, value_parser = domain_name)]
    pub name: Option<String>,
    /// If a domain of this name exists and differs from the request, first delete the domain and the
    /// disks created for it; asks for confirmation
    #[arg(long, requires = "name")]
    pub overwrite: bool,
    /// Protection of the guest from its host [default: tdx; with --scenario, the best that the scenario
    /// allows and this host supports]
    #[arg(long, value_enum, help_heading = "Protection")]
    pub security: Option<Security>,
    /// Memory size [default: the value in the template or scenario, otherwise 8G or half of the host's
    /// memory, whichever is less]
    #[arg(long, value_name = "SIZE", value_parser = memory, help_heading = "Resources")]
    pub memory: Option<Size>,
    /// Number of virtual CPUs [default: the value in the template or scenario, otherwise 4 or the number
    /// of host CPUs, whichever is less]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=4096))]
    #[arg(help_heading = "Resources")]
    pub vcpus: Option<u32>,
    /// libvirt network of the guest [default: default]
    #[arg(long, value_name = "NETWORK", help_heading = "Resources")]
    pub network: Option<String>,
    /// Accelerator: hardware virtualization or software emulation [default: auto]
    #[arg(long, value_enum, value_name = "TYPE", help_heading = "Resources")]
    pub virt_type: Option<VirtTypeArg>,
    /// Number of free PCI Express ports, for devices attached later
    #[arg(long, value_name = "N", default_value_t = 8, help_heading = "Resources")]
    #[arg(value_parser = clap::value_parser!(u32).range(0..=64))]
    pub hotplug_ports: u32,
    /// Forward this port of the host to the guest's SSH server; auto chooses a free port of 127.0.0.1
    #[arg(long, value_name = "auto|[ADDRESS:]PORT", help_heading = "Login")]
    pub ssh_port: Option<PortRequest>,
    /// The flags of the scenario.
    #[command(flatten)]
    pub scenario: ScenarioArgs,
    /// The flags of launch security.
    #[command(flatten)]
    pub launch: LaunchArgs,
    /// The flags of the login.
    #[command(flatten)]
    pub seed: AccessArgs,
    /// The flags of a disk that is not an overlay.
    #[command(flatten)]
    pub disk: DiskArgs,
    /// The flags of host devices.
    #[command(flatten)]
    pub devices: DeviceArgs,
}

impl GuestArgs {
    /// Returns what the flags ask for, and reads the files and the standard input that they name.
    ///
    /// Errors: `usage` when both image and devices are read from standard input; those of
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

    /// Returns the settings of flags that override those of the scenario.
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
        return Err(format!("{size} is too little: a guest needs at least {}", Size(MIN_MEMORY)));
    }
    if size.0 > *MEMORY.end() {
        return Err(format!(
            "{size} is too much: a guest can have at most {}",
            Size(*MEMORY.end())
        ));
    }
    Ok(size)
}
