//! The settings of one guest, resolved from scenario, files and flags.

use std::fmt;
use std::path::PathBuf;

use common::Result;
use common::cli::Context;
use common::cli::config::Config;
use common::libvirt::Libvirt;

use crate::capability::{Security, VirtType};
use crate::scenario::assignments::{Assignments, FlagSetting};
use crate::scenario::conflicts;
use crate::scenario::disk_kind::DiskKind;
use crate::scenario::enums::Cache;
use crate::scenario::layers::{Layers, Setting};
use crate::scenario::library::Scenario;
use crate::scenario::profile::Profile;
use crate::scenario::value::display_value;

/// What a guest asks for over the settings of its scenario.
#[derive(Debug, Clone, Default)]
pub struct RequestedSettings {
    /// The name of the scenario; none for a guest without one.
    pub scenario: Option<String>,
    /// What files and `--set` say.
    pub assignments: Assignments,
    /// What the other flags say.
    pub flags: Vec<FlagSetting>,
}

/// The guest that settings are resolved for.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// How it is protected.
    pub security: Security,
    /// How its processors run.
    pub virt_type: VirtType,
    /// What kind of disk it has.
    pub disk: DiskKind,
}

/// Everything settled: what the guest, its disk and the host are to be like.
#[derive(Debug, Clone)]
pub struct ResolvedSettings {
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

impl ResolvedSettings {
    /// Settles all that flags and files say over a scenario, for guests that are protected and run so.
    ///
    /// Errors: those of [`Assignments::put`]; `usage` for settings that cannot be together;
    /// `unsupported` for what this host has not.
    pub fn new(
        context: &Context,
        libvirt: &Libvirt,
        config: &Config,
        requested: &RequestedSettings,
        scenario: &Scenario,
        target: Target,
    ) -> Result<Self> {
        let Target { security, virt_type, disk } = target;
        let mut layers = scenario.layers(security)?;
        let disk_folder = requested.assignments.put(&mut layers, config, &requested.flags)?;
        let general = Scenario::built_in(security)?;
        let usual = general.profile()?;
        let fitted = conflicts::adapt_to_host(
            &mut layers,
            &context.host,
            libvirt,
            (security, virt_type),
            &usual,
        )?;
        let mut choice = Self::from_layers(&layers, &general, security, disk)?;
        choice.warnings.splice(0..0, fitted);
        choice.disk_folder = disk_folder;
        choice.stateless =
            conflicts::needs_stateless_firmware(&choice.profile, &context.host, libvirt, security)?;
        if let Some(name) = &requested.scenario {
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
    pub fn from_layers(
        layers: &Layers,
        general: &Layers,
        security: Security,
        kind: DiskKind,
    ) -> Result<Self> {
        let profile = layers.profile()?;
        conflicts::check(&profile, security)?;
        let mut warnings = conflicts::ignored_settings(&profile, layers);
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
    pub fn is_assigned(&self, setting: &str) -> bool {
        let found = self.settings.iter().find(|known| known.setting == setting);
        found.is_some_and(|setting| setting.assigned)
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
        .map(|(is, _)| (is.setting.clone(), display_value(&is.value)))
        .collect()
}

impl fmt::Display for ResolvedSettings {
    /// In one sentence, what is not as recommended.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let differ = self.settings.iter().filter(|setting| setting.differs());
        for (number, setting) in differ.enumerate() {
            let Setting { setting, recommended, value, origin, .. } = setting;
            let comma = if number > 0 { "; " } else { "" };
            write!(
                f,
                "{comma}{setting} is {} ({origin}), not {}",
                display_value(value),
                display_value(recommended)
            )?;
        }
        Ok(())
    }
}
