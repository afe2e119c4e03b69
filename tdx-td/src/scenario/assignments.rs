//! Settings that files and flags put over a scenario.

use std::path::PathBuf;
use std::str::FromStr;

use common::cli::config::Config;
use common::{Error, Result};
use serde_json::Value;

use crate::scenario::layers::{Layers, Origin, Sections, parse_set};
use crate::scenario::user_settings::UserSettings;
use crate::scenario::value::size_value;

/// What files and flags set over the settings of a scenario.
#[derive(Debug, Clone, Default)]
pub struct Assignments {
    /// Single settings, each as `SETTING=VALUE`.
    pub set: Vec<Assignment>,
    /// A file of settings, in the form of virt-scenario's `virtscenario.yaml`.
    pub user_settings: Option<PathBuf>,
}

impl Assignments {
    /// Puts over `layers` what the configuration, files and flags say; `flags` are flags of the verb's own.
    /// Returns the directory that files want disks to be in.
    ///
    /// Errors: those of [`Layers::put`] and [`UserSettings::read`].
    pub fn put(
        &self,
        layers: &mut Layers,
        config: &Config,
        flags: &[FlagSetting],
    ) -> Result<Option<PathBuf>> {
        let mut disk_folder = None;
        let configured = [
            ("guest.memory", config.memory.map(size_value)),
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
        for FlagSetting { flag, setting, value } in flags.iter().cloned() {
            put(layers, Origin::Flag(flag.to_owned()), setting, value)?;
        }
        Ok(disk_folder)
    }

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

/// A flag that stands for a setting.
#[derive(Debug, Clone)]
pub struct FlagSetting {
    /// The flag, `--memory`.
    pub flag: &'static str,
    /// The setting that the flag stands for, `guest.memory`.
    pub setting: &'static str,
    /// The value of the flag; none for a flag that was not given.
    pub value: Option<Value>,
}

fn put(layers: &mut Layers, origin: Origin, setting: &str, value: Option<Value>) -> Result<()> {
    match value {
        Some(value) => layers.put(&origin, Sections::single(setting, value)),
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
