//! virt-scenario's file of user settings, as it stands.
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

/// Settings over a scenario's.
#[derive(Debug)]
pub struct UserSettings {
    settings: Vec<(&'static str, Value)>,
    host_filesystem: Map<String, Value>,
    /// Where disks are to be.
    pub disk_folder: Option<PathBuf>,
}

/// A section: a list of maps of one key each.
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

/// Keys that say where virt-scenario's own files are.
const ELSEWHERE: [&str; 4] = ["path", "vm-config-store", "fw_meta", "hvconf"];

impl UserSettings {
    /// Reads such a file.
    ///
    /// Errors: those of reading it; `invalid_input` for another form, for a name that there is not, and
    /// for an architecture or a kind of disk that there is not here.
    pub fn read(path: &Path) -> Result<Self> {
        Self::parse(&read_text(path)?).map_err(|why| {
            Error::invalid_input(format!("{} is no file of user settings", path.display()))
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
                return Err(format!("arch {value}: only x86_64 guests are made"));
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
            return Err(format!("disk_type {kind}: only disks of type file are made"));
        }
        if let Some(path) = section.remove("path") {
            let path = path.as_str().ok_or_else(|| format!("path {path} is no path"))?;
            self.disk_folder = Some(path.into());
        }
        // Numbers of units; a size that tells its own unit needs none.
        let unit = section.remove("unit").unwrap_or_else(|| "G".into());
        let unit = unit.as_str().ok_or("unit is no word")?.to_owned();
        for (name, value) in section {
            let name = name.strip_prefix("disk_").unwrap_or(&name);
            // A bare number, in quotes or not.
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

    /// Puts them over `layers`.
    ///
    /// Errors: those of [`Layers::put`].
    pub fn put(self, layers: &mut Layers, path: &Path) -> Result<()> {
        let origin = Origin::File(path.to_owned());
        for (setting, value) in self.settings {
            layers.put(&origin, Sections::single(setting, value))?;
        }
        // The file has a folder for every scenario; only those that share one get it.
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

/// The settings of a section. One without a value is as recommended.
fn pairs(section: Section) -> impl Iterator<Item = (String, Value)> {
    section.into_iter().flatten().flatten().filter(|(_, value)| !value.is_null())
}

fn known<'a>(name: &str, names: &[&'a str]) -> Result<&'a str, String> {
    let found = names.iter().find(|known| **known == name);
    found.copied().ok_or_else(|| match common::nearest(name, names.iter().copied()) {
        Some(nearest) => format!("there is no {name}; did you mean {nearest}?"),
        None => format!("there is no {name}"),
    })
}

/// The setting of a section that a name stands for.
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
        fn no_text_panics(
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
