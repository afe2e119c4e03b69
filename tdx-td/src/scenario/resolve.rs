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

/// The requested scenario, and the settings that override it.
#[derive(Debug, Clone, Default)]
pub struct RequestedSettings {
    /// Name of the scenario; `None` for a guest without one.
    pub scenario: Option<String>,
    /// The settings of files and `--set`.
    pub assignments: Assignments,
    /// The settings of other flags.
    pub flags: Vec<FlagSetting>,
}

/// The guest that settings are resolved for.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// Protection of the guest.
    pub security: Security,
    /// Accelerator of the guest.
    pub virt_type: VirtType,
    /// Kind of the guest's disk.
    pub disk: DiskKind,
}

/// The resolved settings of a guest, its disk and its host.
#[derive(Debug, Clone)]
pub struct ResolvedSettings {
    /// The values in effect.
    pub profile: Profile,
    /// All settings, with recommended and actual values.
    pub settings: Vec<Setting>,
    /// The directory for a new disk, if a file of settings names one.
    pub disk_folder: Option<PathBuf>,
    /// Warnings for the user.
    pub warnings: Vec<String>,
    /// Whether libvirt finds firmware for the guest only if the guest requests a stateless build.
    pub stateless: bool,
    /// The settings of guest and disk that differ from the defaults, in the form that a later `new` of the same
    /// name compares.
    pub request: Vec<(String, String)>,
}

/// The settings that apply only to new disks.
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
    /// Resolves the settings of scenario, files and flags for a guest.
    ///
    /// Errors: those of [`Assignments::put`]; `usage` for settings that contradict each other;
    /// `unsupported` for settings that this host does not support.
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
            let open = open.then(|| {
                format!("the guest is not protected, but scenario '{name}' is for protected guests")
            });
            choice.warnings.extend(open);
            let differs = choice.settings.iter().any(Setting::differs);
            choice.warnings.extend(differs.then(|| choice.to_string()));
        }
        Ok(choice)
    }

    /// Resolves settings from layers. `general` are the built-in default settings.
    ///
    /// Errors: `usage` for settings that contradict each other.
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
            let disk = if kind == DiskKind::Given { "an existing image" } else { "an overlay" };
            warnings.push(format!(
                "storage.encryption is ignored: the disk is {disk}, which cannot be encrypted"
            ));
        }
        if profile.storage.cache == Some(Cache::Unsafe) {
            warnings.push(
                "storage.cache is unsafe: data of the guest is lost if the host crashes".to_owned(),
            );
        }
        let request = request(&settings, &general.settings());
        Ok(Self { profile, settings, stateless: false, request, disk_folder: None, warnings })
    }

    /// Whether a file or flag assigned a setting.
    pub fn is_assigned(&self, setting: &str) -> bool {
        let found = self.settings.iter().find(|known| known.setting == setting);
        found.is_some_and(|setting| setting.assigned)
    }
}

/// Returns the settings of guest and disk that differ from the defaults.
fn request(settings: &[Setting], general: &[Setting]) -> Vec<(String, String)> {
    // The values in effect of these settings are compared by other keys.
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
    /// Writes the settings that differ from the recommendation.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let differ = self.settings.iter().filter(|setting| setting.differs());
        for (number, setting) in differ.enumerate() {
            let Setting { setting, recommended, value, origin, .. } = setting;
            let comma = if number > 0 { "; " } else { "" };
            write!(
                f,
                "{comma}{setting} is {} ({origin}), but {} is recommended",
                display_value(value),
                display_value(recommended)
            )?;
        }
        Ok(())
    }
}
