//! Which scenario, and what is to be otherwise than it says.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use clap::Args;
use common::cli::Context;
use common::cli::config::Config;
use common::libvirt::Libvirt;
use common::units::Size;
use common::{Error, Result};
use serde_json::Value;

use super::fit;
use super::layers::{Layers, Origin, Sections, Setting, parse_set};
use super::library::{DEFAULT, Scenario};
use super::profile::Profile;
use super::user_settings::UserSettings;
use crate::capability::{self, Security, VirtType};
use crate::create::disk_plan::DiskKind;
use crate::create::settings::GuestArgs;
use crate::scenario::enums::Cache;

/// The flags that change settings, whatever the scenario.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Scenario")]
pub struct Assignments {
    /// One setting, such as guest.video=none; tdx-td scenario show has them all
    #[arg(long, value_name = "SETTING=VALUE")]
    pub set: Vec<Assignment>,
    /// A file of settings over the scenario's, in the form of virt-scenario's virtscenario.yaml
    #[arg(long, value_name = "FILE")]
    pub user_settings: Option<PathBuf>,
}

/// The flags that choose settings.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Scenario")]
pub struct ScenarioArgs {
    /// What the guest is for: td, securevm, computation, desktop, or one of /etc/tdx/scenarios
    #[arg(long, value_name = "NAME")]
    pub scenario: Option<String>,
    /// Settings over it.
    #[command(flatten)]
    pub assignments: Assignments,
    /// The machine type, as QEMU names it [default: q35]
    #[arg(long, value_name = "TYPE")]
    pub machine: Option<String>,
    /// What to boot from: hd, cdrom, fd or network [default: hd]
    #[arg(long, value_name = "DEVICE")]
    pub boot: Option<String>,
}

impl ScenarioArgs {
    /// The scenario; without one, what holds without any.
    ///
    /// Errors: those of [`Scenario::find`].
    pub fn scenario(&self, context: &Context) -> Result<Scenario> {
        Scenario::find(&context.host, self.scenario.as_deref().unwrap_or(DEFAULT))
    }

    fn said(&self) -> [Said; 2] {
        [
            Said("--machine", "guest.machine", self.machine.clone().map(Value::from)),
            Said("--boot", "guest.boot", self.boot.clone().map(Value::from)),
        ]
    }
}

impl Assignments {
    /// Puts over `layers` what files and flags say; those of `more` are flags of the verb's own.
    /// Returns the folder that files want disks to be in.
    ///
    /// Errors: those of [`Layers::put`] and [`UserSettings::read`].
    pub fn put(
        &self,
        layers: &mut Layers,
        config: &Config,
        more: impl IntoIterator<Item = Said>,
    ) -> Result<Option<PathBuf>> {
        let mut disk_folder = None;
        let configured = [
            ("guest.memory", config.memory.map(exact)),
            ("guest.vcpus", config.vcpus.map(Value::from)),
            ("guest.network", config.network.clone().map(Value::from)),
        ];
        if let Some(path) = &self.user_settings {
            let settings = UserSettings::read(path)?;
            disk_folder.clone_from(&settings.disk_folder);
            settings.put(layers, path)?;
        }
        for (setting, value) in configured {
            put(layers, Origin::Config, setting, value)?;
        }
        for Assignment { text, sections } in &self.set {
            layers.put(&Origin::Flag(format!("--set {text}")), sections.clone())?;
        }
        for Said(flag, setting, value) in more {
            put(layers, Origin::Flag(flag.to_owned()), setting, value)?;
        }
        Ok(disk_folder)
    }
}

impl Assignments {
    /// Fails for a flag about something else than the host.
    ///
    /// Errors: `usage`.
    pub fn check_host(&self) -> Result<()> {
        let other =
            |set: &&Assignment| !(set.sections.guest.is_empty() && set.sections.storage.is_empty());
        match self.set.iter().find(other) {
            None => Ok(()),
            Some(set) => {
                Err(Error::usage(format!("--set {}: this is no setting of the host", set.text))
                    .hint("host.swappiness=10, for one, is"))
            }
        }
    }
}

/// A flag, the setting that it stands for, and the value it was given.
#[derive(Debug)]
pub struct Said(pub &'static str, pub &'static str, pub Option<Value>);

/// A size as settings have it.
pub fn exact(size: Size) -> Value {
    Value::from(size.0)
}

fn put(layers: &mut Layers, origin: Origin, setting: &str, value: Option<Value>) -> Result<()> {
    match value {
        Some(value) => layers.put(&origin, Sections::one(setting, value)),
        None => Ok(()),
    }
}

/// The argument of `--set`.
#[derive(Debug, Clone)]
pub struct Assignment {
    text: String,
    sections: Sections,
}

impl FromStr for Assignment {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Ok(Self { text: text.to_owned(), sections: parse_set(text)? })
    }
}

/// How a scenario's guests are protected: as was asked for, else the best that the host has.
///
/// Errors: `unsupported` when it has none of what the scenario wants, with what each lacks.
pub fn security(
    context: &Context,
    libvirt: &Libvirt,
    scenario: &Scenario,
    asked: Option<Security>,
) -> Result<Security> {
    if let Some(security) = asked {
        return Ok(security);
    }
    let mut missing = Vec::new();
    for security in &scenario.security {
        match capability::check_security(&context.host, libvirt, *security) {
            Ok(()) => return Ok(*security),
            Err(error) => missing.push(error.message().to_owned()),
        }
    }
    let name = &scenario.name;
    Err(Error::unsupported(format!("this host protects no guest as scenario '{name}' wants it"))
        .because(missing.join("; "))
        .hint("--security none makes a guest that is open to this host"))
}

/// Everything settled: what the guest, its disk and the host are to be like.
#[derive(Debug, Clone)]
pub struct Choice {
    /// All settings.
    pub profile: Profile,
    /// All settings, as recommended and as they are to be.
    pub settings: Vec<Setting>,
    /// Where a new disk is to be, if it was said by a file of settings.
    pub disk_folder: Option<PathBuf>,
    /// What the user should know.
    pub warnings: Vec<String>,
    /// Whether libvirt finds firmware for the guest only when the guest asks for a stateless build.
    pub stateless: bool,
    /// What was asked for of guest and disk, in the form a later `new` of the same name compares. What is
    /// as without a scenario goes without saying.
    pub request: Vec<(String, String)>,
}

/// Settings of a disk that is made, of no meaning for others.
const OF_NEW_DISKS: [&str; 7] = [
    "storage.format",
    "storage.capacity",
    "storage.preallocation",
    "storage.encryption",
    "storage.lazy_refcounts",
    "storage.cluster_size",
    "storage.compression_type",
];

impl Choice {
    /// Settles all that flags and files say over a scenario, for guests that are protected and run so.
    ///
    /// Errors: those of [`Assignments::put`]; `usage` for settings that cannot be together;
    /// `unsupported` for what this host has not.
    pub fn new(
        context: &Context,
        libvirt: &Libvirt,
        config: &Config,
        args: &GuestArgs,
        scenario: &Scenario,
        (security, virt_type, kind): (Security, VirtType, DiskKind),
    ) -> Result<Self> {
        let mut layers = scenario.layers(security)?;
        let boot_cd = args.disk.cdrom.is_some() && args.scenario.boot.is_none();
        let [machine, boot] = args.scenario.said();
        let said = [
            machine,
            boot,
            Said("--memory", "guest.memory", args.memory.map(exact)),
            Said("--vcpus", "guest.vcpus", args.vcpus.map(Value::from)),
            Said("--network", "guest.network", args.network.clone().map(Value::from)),
            Said("--blank", "storage.capacity", args.disk.blank.map(exact)),
            Said("--cdrom", "guest.boot", boot_cd.then(|| "cdrom".into())),
        ];
        let disk_folder = args.scenario.assignments.put(&mut layers, config, said)?;
        let general = Scenario::built_in(security)?;
        let usual = general.profile()?;
        let fitted =
            fit::to_host(&mut layers, &context.host, libvirt, (security, virt_type), &usual)?;
        let mut choice = Self::settle(&layers, &general, security, kind)?;
        choice.warnings.splice(0..0, fitted);
        choice.disk_folder = disk_folder;
        choice.stateless = fit::stateless(&choice.profile, &context.host, libvirt, security)?;
        if let Some(name) = &args.scenario.scenario {
            let open = security == Security::None && !scenario.security.contains(&security);
            let open = open
                .then(|| format!("the guest is open to its host, and '{name}' is not for that"));
            choice.warnings.extend(open);
            let differs = choice.settings.iter().any(Setting::differs);
            choice.warnings.extend(differs.then(|| choice.to_string()));
        }
        Ok(choice)
    }

    /// The same of settings that were put together already, `general` being those that are built in.
    ///
    /// Errors: `usage` for settings that cannot be together.
    pub fn settle(
        layers: &Layers,
        general: &Layers,
        security: Security,
        kind: DiskKind,
    ) -> Result<Self> {
        let profile = layers.profile()?;
        fit::check(&profile, security)?;
        let mut warnings = fit::meaningless(&profile, layers);
        let mut settings = layers.settings();
        for setting in settings.iter_mut().filter(|_| kind != DiskKind::New) {
            setting.applies = !OF_NEW_DISKS.contains(&setting.setting.as_str());
        }
        if kind != DiskKind::New && profile.storage.encryption.0 {
            let disk = if kind == DiskKind::Given { "the user's own" } else { "an overlay" };
            warnings.push(format!("the disk is {disk}: storage.encryption does not apply"));
        }
        if profile.storage.cache == Some(Cache::Unsafe) {
            let what = "what the guest wrote is lost when the host crashes";
            warnings.push(format!("{what}: storage.cache is unsafe"));
        }
        let request = request(&settings, &general.settings());
        Ok(Self { profile, settings, stateless: false, request, disk_folder: None, warnings })
    }

    /// Whether somebody said how a setting is to be.
    pub fn is_said(&self, setting: &str) -> bool {
        let said = self.settings.iter().find(|known| known.setting == setting);
        said.is_some_and(|setting| setting.said)
    }
}

/// What a guest and its disk have that they would not have without a scenario.
fn request(settings: &[Setting], general: &[Setting]) -> Vec<(String, String)> {
    // These are told apart by what they come to.
    let elsewhere = ["guest.memory", "guest.vcpus", "guest.network"];
    let of_guest = |setting: &str| !setting.starts_with("host.") && !elsewhere.contains(&setting);
    settings
        .iter()
        .zip(general)
        .filter(|(is, was)| is.applies && is.value != was.value && of_guest(&is.setting))
        .map(|(is, _)| (is.setting.clone(), plain(&is.value)))
        .collect()
}

impl fmt::Display for Choice {
    /// In one sentence, what is not as recommended.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let differ = self.settings.iter().filter(|setting| setting.differs());
        for (number, setting) in differ.enumerate() {
            let Setting { setting, recommended, value, origin, .. } = setting;
            let comma = if number > 0 { "; " } else { "" };
            write!(
                f,
                "{comma}{setting} is {} ({origin}), not {}",
                plain(value),
                plain(recommended)
            )?;
        }
        Ok(())
    }
}

/// A value as people write it.
pub fn plain(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(values) => values.iter().map(plain).collect::<Vec<_>>().join(","),
        Value::Object(values) => {
            let pairs = values.iter().map(|(key, value)| format!("{key}={}", plain(value)));
            pairs.collect::<Vec<_>>().join(",")
        }
        other => other.to_string(),
    }
}
