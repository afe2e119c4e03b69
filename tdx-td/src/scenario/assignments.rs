//! Settings from files and flags that override those of a scenario.

use std::path::PathBuf;
use std::str::FromStr;

use common::cli::config::{self, Config};
use common::{Error, Result};
use serde_json::Value;

use crate::scenario::layers::{Layers, Origin, Sections, parse_set};
use crate::scenario::user_settings::UserSettings;
use crate::scenario::value::size_value;

/// The settings of files and flags that override those of a scenario.
#[derive(Debug, Clone, Default)]
pub struct Assignments {
    /// Single settings, each as `SETTING=VALUE`.
    pub set: Vec<Assignment>,
    /// A file of settings, in the format of virt-scenario's `virtscenario.yaml`.
    pub user_settings: Option<PathBuf>,
}

impl Assignments {
    /// Puts the settings of configuration, files and flags over `layers`. `flags` are flags of the verb itself.
    /// Returns the directory for new disks, if the file of user settings has one.
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
            ("memory", config.memory.map(size_value)),
            ("vcpus", config.vcpus.map(Value::from)),
            ("network", config.network.clone().map(Value::from)),
        ];
        if let Some(path) = &self.user_settings {
            let settings = UserSettings::read(path)?;
            disk_folder.clone_from(&settings.disk_folder);
            settings.put(layers, path)?;
        }
        for (key, value) in configured {
            put(layers, Origin::Config(config::source(key)), &format!("guest.{key}"), value)?;
        }
        for Assignment { text, sections } in &self.set {
            layers.put(&Origin::Flag(format!("--set {text}")), sections.clone())?;
        }
        for FlagSetting { flag, setting, value } in flags.iter().cloned() {
            put(layers, Origin::Flag(flag.to_owned()), setting, value)?;
        }
        Ok(disk_folder)
    }

    /// Fails for a flag with a setting that is not one of the host.
    ///
    /// Errors: `usage`.
    pub fn check_host(&self) -> Result<()> {
        let other =
            |set: &&Assignment| !(set.sections.guest.is_empty() && set.sections.storage.is_empty());
        match self.set.iter().find(other) {
            None => Ok(()),
            Some(set) => {
                Err(Error::usage(format!("--set {}: not a setting of the host", set.text))
                    .hint("settings of the host begin with host., such as host.swappiness=10"))
            }
        }
    }
}

/// A flag that is equivalent to a setting.
#[derive(Debug, Clone)]
pub struct FlagSetting {
    /// The flag, such as `--memory`.
    pub flag: &'static str,
    /// The setting, such as `guest.memory`.
    pub setting: &'static str,
    /// The value of the flag; `None` if the flag was not given.
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
