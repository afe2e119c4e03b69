//! Parser of virt-scenario's file of user settings.
//!
//! ```yaml
//! input:
//!   - keyboard: virtio
//! STORAGE_DATA:
//!   - format: qcow2
//!   - capacity: 20
//!   - unit: G
//! ```

use std::path::{Path, PathBuf};

use common::{Error, Result, yaml};
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::scenario::layers::{Layers, Origin, Sections};
use crate::scenario::library::read_text;

/// Settings that override those of a scenario.
#[derive(Debug)]
pub struct UserSettings {
    settings: Vec<(&'static str, Value)>,
    host_filesystem: Map<String, Value>,
    /// The directory for new disks.
    pub disk_folder: Option<PathBuf>,
}

/// A section: a list of maps with one key each.
type Section = Option<Vec<Map<String, Value>>>;

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct File {
    config: Section,
    emulator: Section,
    input: Section,
    architecture: Section,
    #[serde(rename = "STORAGE_DATA")]
    storage: Section,
    host_filesystem: Section,
    hypervisors: Section,
}

/// Keys with paths of virt-scenario's own files, which are ignored.
const ELSEWHERE: [&str; 4] = ["path", "vm-config-store", "fw_meta", "hvconf"];

impl UserSettings {
    /// Reads a file of user settings.
    ///
    /// Errors: those of reading the file; `invalid_input` for another format, for an unknown name, and
    /// for an unsupported architecture or kind of disk.
    pub fn read(path: &Path) -> Result<Self> {
        Self::parse(&read_text(path)?).map_err(|why| {
            Error::invalid_input(format!("{} is not a valid file of user settings", path.display()))
                .because(why)
        })
    }

    fn parse(text: &str) -> Result<Self, String> {
        let file: Option<File> = yaml::from_str(text).map_err(|error| error.to_string())?;
        let file = file.unwrap_or_default();
        let mut this =
            Self { settings: Vec::new(), host_filesystem: Map::new(), disk_folder: None };
        for (name, _) in pairs(file.config).chain(pairs(file.hypervisors)) {
            known(&name, &ELSEWHERE)?;
        }
        for (name, value) in pairs(file.emulator) {
            if known(&name, &["emulator", "fw_meta"])? == "emulator" {
                this.settings.push(("guest.emulator", value));
            }
        }
        for (name, value) in pairs(file.architecture) {
            known(&name, &["arch"])?;
            if value != "x86_64" {
                return Err(format!("invalid value {value} for arch: only x86_64 is supported"));
            }
        }
        for (name, value) in pairs(file.input) {
            let settings = ["guest.keyboard", "guest.mouse"];
            this.settings.push((setting(&name, &settings)?, value));
        }
        for (name, value) in pairs(file.host_filesystem) {
            known(&name, &["fmode", "dmode", "source_dir", "target_dir"])?;
            this.host_filesystem.insert(name, value);
        }
        this.storage(pairs(file.storage).collect())?;
        Ok(this)
    }

    fn storage(&mut self, mut section: Map<String, Value>) -> Result<(), String> {
        if let Some(kind) = section.remove("disk_type").filter(|kind| kind != "file") {
            return Err(format!("invalid value {kind} for disk_type: only file is supported"));
        }
        if let Some(path) = section.remove("path") {
            let path = path
                .as_str()
                .ok_or_else(|| format!("invalid value {path} for path: expected a string"))?;
            self.disk_folder = Some(path.into());
        }
        // The unit of sizes that have none of their own.
        let unit = section.remove("unit").unwrap_or_else(|| "G".into());
        let unit = unit.as_str().ok_or("invalid value for unit: expected a string")?.to_owned();
        for (name, value) in section {
            let name = name.strip_prefix("disk_").unwrap_or(&name);
            // A number without a unit, in quotes or not.
            let digits = value.as_str().and_then(|text| text.parse().ok());
            let value = match (name, value.as_u64().or(digits)) {
                ("capacity", Some(number)) => format!("{number}{unit}").into(),
                ("cluster_size", Some(number)) => format!("{number}k").into(),
                _ => value,
            };
            self.settings.push((setting(name, &STORAGE)?, value));
        }
        Ok(())
    }

    /// Overrides `layers` with these settings.
    ///
    /// Errors: those of [`Layers::put`].
    pub fn put(self, layers: &mut Layers, path: &Path) -> Result<()> {
        let origin = Origin::File(path.to_owned());
        for (setting, value) in self.settings {
            layers.put(&origin, Sections::single(setting, value))?;
        }
        // The directory applies only to scenarios that share one.
        let folder = self.host_filesystem;
        if !folder.is_empty() && layers.profile()?.guest.host_filesystem.is_some() {
            layers
                .put(&origin, Sections::single("guest.host_filesystem", Value::Object(folder)))?;
        }
        Ok(())
    }
}

const STORAGE: [&str; 10] = [
    "storage.cache",
    "storage.target",
    "storage.bus",
    "storage.format",
    "storage.capacity",
    "storage.cluster_size",
    "storage.lazy_refcounts",
    "storage.preallocation",
    "storage.compression_type",
    "storage.encryption",
];

/// Returns the settings of a section that have a value.
fn pairs(section: Section) -> impl Iterator<Item = (String, Value)> {
    section.into_iter().flatten().flatten().filter(|(_, value)| !value.is_null())
}

fn known<'a>(name: &str, names: &[&'a str]) -> Result<&'a str, String> {
    let found = names.iter().find(|known| **known == name);
    found.copied().ok_or_else(|| match common::nearest(name, names.iter().copied()) {
        Some(nearest) => format!("unknown name {name}; did you mean {nearest}?"),
        None => format!("unknown name {name}"),
    })
}

/// Returns the full name of a setting.
fn setting(name: &str, settings: &[&'static str]) -> Result<&'static str, String> {
    let names: Vec<&str> =
        settings.iter().map(|setting| setting.rsplit('.').next().unwrap_or(setting)).collect();
    let name = known(name, &names)?;
    let at = names.iter().position(|known| *known == name).unwrap_or_default();
    Ok(settings[at])
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn parse_does_not_panic_on_any_text(
            text in "\\PC*",
            section in "input|STORAGE_DATA|host_filesystem|config",
            key in "keyboard|path|unit|capacity|fmode|[a-z_]{0,8}",
            value in "\\PC{0,8}",
        ) {
            let _ = UserSettings::parse(&text);
            let _ = UserSettings::parse(&format!("{section}:\n  - {key}: {value}\n"));
        }
    }
}
