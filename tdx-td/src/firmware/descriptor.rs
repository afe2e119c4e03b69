//! What a firmware build is and takes, as its descriptor says.
//!
//! Source: QEMU `docs/interop/firmware.json`, `Firmware`; its memory mapping of QEMU 11.0, which has
//! modes as flash has.

use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Where firmware comes into the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Device {
    /// Two flash chips, for code and for variables.
    Flash,
    /// Loaded as a Linux kernel is.
    Kernel,
    /// Read-only memory.
    Memory,
    /// A file that says itself where in memory its parts go.
    Igvm,
}

impl Device {
    /// Its name in descriptors.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Flash => "flash",
            Self::Kernel => "kernel",
            Self::Memory => "memory",
            Self::Igvm => "igvm",
        }
    }
}

/// Where firmware keeps its variables.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// In a file of the guest's own, made from a template.
    Split,
    /// Beside the code, in a copy of the guest's own.
    Combined,
    /// Nowhere.
    Stateless,
}

impl Mode {
    /// Its name in descriptors.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Split => "split",
            Self::Combined => "combined",
            Self::Stateless => "stateless",
        }
    }
}

/// A file on the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct File {
    /// Where it is.
    #[serde(alias = "filename")]
    pub path: PathBuf,
    /// How it is written: `raw`, `qcow2`, `json`.
    pub format: String,
}

/// What the firmware runs on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Target {
    /// As QEMU names it: `x86_64`.
    pub architecture: String,
    /// Patterns of versioned machine types: `pc-q35-*`.
    pub machines: Vec<String>,
}

/// A descriptor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Descriptor {
    /// Its file.
    pub path: PathBuf,
    /// The file's text.
    pub text: String,
    /// For people.
    pub description: String,
    /// What the guest sees, the best first: `uefi`, `bios`, …
    pub interface_types: Vec<String>,
    /// Where it runs.
    pub targets: Vec<Target>,
    /// What it can do, and what it asks for.
    pub features: Vec<String>,
    /// Where it comes into the guest.
    pub device: Device,
    /// Where it keeps its variables; none where the descriptor has no such thing.
    pub mode: Option<Mode>,
    /// The firmware.
    pub executable: File,
    /// What a guest's variables are made from.
    pub nvram_template: Option<File>,
    /// For those who built it.
    pub tags: Vec<String>,
}

/// A descriptor as it is written.
#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Written {
    #[serde(default)]
    description: String,
    interface_types: Vec<String>,
    mapping: Mapping,
    targets: Vec<Target>,
    #[serde(default)]
    features: Vec<String>,
    #[serde(default)]
    tags: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Mapping {
    device: Device,
    mode: Option<Mode>,
    executable: Option<File>,
    nvram_template: Option<File>,
    filename: Option<PathBuf>,
}

impl Descriptor {
    /// Reads a descriptor.
    ///
    /// Errors: what of it is not as QEMU's specification wants it, in words.
    pub fn parse(path: &Path, text: String) -> Result<Self, String> {
        let written: Written = serde_json::from_str(&text).map_err(|error| error.to_string())?;
        let Mapping { device, mode, executable, nvram_template, filename } = written.mapping;
        let by_name = |path| File { path, format: "raw".to_owned() };
        let (executable, mode) = match (device, executable, filename) {
            (Device::Flash, Some(file), None) => (file, Some(mode.unwrap_or(Mode::Split))),
            (Device::Memory, Some(file), None) if mode.is_some() => (file, mode),
            (Device::Memory, None, Some(name)) => (by_name(name), Some(Mode::Stateless)),
            (Device::Kernel | Device::Igvm, None, Some(name)) => (by_name(name), None),
            _ => return Err(format!("the {} mapping names no firmware", device.as_str())),
        };
        match (mode, &nvram_template) {
            (Some(Mode::Split), None) => return Err("a split build without nvram-template".into()),
            (None | Some(Mode::Combined | Mode::Stateless), Some(_)) => {
                return Err("an nvram-template that nothing is made from".into());
            }
            _ => {}
        }
        Ok(Self {
            path: path.to_owned(),
            text,
            description: written.description,
            interface_types: written.interface_types,
            targets: written.targets,
            features: written.features,
            device,
            mode,
            executable,
            nvram_template,
            tags: written.tags,
        })
    }

    /// The name it is sorted and replaced by: the last part of its path.
    pub fn name(&self) -> String {
        self.path.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// Whether it has a feature.
    pub fn has(&self, feature: &str) -> bool {
        self.features.iter().any(|has| has == feature)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(mapping: &str) -> Result<Descriptor, String> {
        let text = format!(
            r#"{{"description":"d","interface-types":["uefi"],"mapping":{mapping},
            "targets":[{{"architecture":"x86_64","machines":["pc-q35-*"]}}],
            "features":["acpi-s3"],"tags":[],"since":"a key of a later QEMU"}}"#
        );
        Descriptor::parse(Path::new("/x/50-a.json"), text)
    }

    #[test]
    fn every_mapping_is_understood() {
        let file = r#"{"filename":"/code","format":"qcow2"}"#;
        let vars = r#"{"filename":"/vars","format":"raw"}"#;
        for (mapping, device, mode, format) in [
            (
                format!(r#"{{"device":"flash","executable":{file},"nvram-template":{vars}}}"#),
                Device::Flash,
                Some(Mode::Split),
                "qcow2",
            ),
            (
                format!(r#"{{"device":"flash","mode":"combined","executable":{file}}}"#),
                Device::Flash,
                Some(Mode::Combined),
                "qcow2",
            ),
            (
                format!(r#"{{"device":"flash","mode":"stateless","executable":{file}}}"#),
                Device::Flash,
                Some(Mode::Stateless),
                "qcow2",
            ),
            (r#"{"device":"kernel","filename":"/code"}"#.into(), Device::Kernel, None, "raw"),
            (r#"{"device":"igvm","filename":"/code"}"#.into(), Device::Igvm, None, "raw"),
            (
                r#"{"device":"memory","filename":"/code"}"#.into(),
                Device::Memory,
                Some(Mode::Stateless),
                "raw",
            ),
            (
                format!(
                    r#"{{"device":"memory","mode":"split","executable":{file},"nvram-template":{vars}}}"#
                ),
                Device::Memory,
                Some(Mode::Split),
                "qcow2",
            ),
        ] {
            let descriptor = parse(&mapping).unwrap_or_else(|e| panic!("{mapping}: {e}"));
            assert_eq!((descriptor.device, descriptor.mode), (device, mode), "{mapping}");
            assert_eq!(descriptor.executable, File { path: "/code".into(), format: format.into() });
            let vars = descriptor.nvram_template.is_some();
            assert_eq!(vars, mode == Some(Mode::Split), "{mapping}");
        }
    }

    #[test]
    fn what_is_no_descriptor_is_said_in_words() {
        for (mapping, says) in [
            (r#"{"device":"floppy","filename":"/code"}"#, "floppy"),
            (r#"{"device":"memory"}"#, "memory mapping names no firmware"),
            (r#"{"device":"flash","filename":"/code"}"#, "flash mapping names no firmware"),
            (r#"{"filename":"/code"}"#, "device"),
            (
                r#"{"device":"flash","executable":{"filename":"/c","format":"raw"}}"#,
                "without nvram",
            ),
        ] {
            let error = parse(mapping).unwrap_err();
            assert!(error.contains(says), "{mapping}: {error}");
        }
    }

    proptest! {
        /// Whatever is in a file: read, or said to be wrong, never a panic.
        #[test]
        fn no_text_panics(text in "\\PC*") {
            let _ = Descriptor::parse(Path::new("/x/50-a.json"), text);
        }

        /// The same for what is nearly one: a good descriptor with a piece of it replaced.
        #[test]
        fn nothing_near_a_descriptor_panics(at in 0..400_usize, piece in "[\\[\\]{}\":,a-z0-9]{0,4}") {
            let good = parse(r#"{"device":"memory","filename":"/code"}"#).unwrap().text;
            let at = at.min(good.len());
            let end = (at + piece.len()).min(good.len());
            let text = format!("{}{piece}{}", &good[..at], &good[end..]);
            if let Ok(descriptor) = Descriptor::parse(Path::new("/x/50-a.json"), text) {
                prop_assert_eq!(descriptor.name(), "50-a.json");
            }
        }
    }
}
