//! What a firmware build is and needs, as its descriptor says.
//!
//! A file counts as a descriptor exactly when libvirt's reader accepts it, since libvirt chooses.
//!
//! Source: QEMU `docs/interop/firmware.json`, `Firmware`; libvirt `src/qemu/qemu_firmware.c`,
//! `qemuFirmwareParse`.

use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

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
    /// The device of a name in descriptors.
    fn parse(word: &str) -> Option<Self> {
        [Self::Flash, Self::Kernel, Self::Memory, Self::Igvm]
            .into_iter()
            .find(|d| d.as_str() == word)
    }

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
    /// The mode of a name in descriptors.
    fn parse(word: &str) -> Option<Self> {
        [Self::Split, Self::Combined, Self::Stateless].into_iter().find(|m| m.as_str() == word)
    }

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

impl Descriptor {
    /// Reads a descriptor.
    ///
    /// Errors: why libvirt does not accept the text, in words.
    pub fn parse(path: &Path, text: String) -> Result<Self, String> {
        // libvirt hands the text to its parser as a C string.
        let read = text.split('\0').next().unwrap_or_default();
        let written: Value = serde_json::from_str(read).map_err(|error| error.to_string())?;
        if !written.is_object() {
            return Err("it is not a JSON object".to_owned());
        }
        let interface_types = interface_types(&written)?;
        let Mapping { device, mode, executable, nvram_template } = mapping(&written)?;
        let targets = array(&written, "targets")?.iter().map(target).collect::<Result<_, _>>()?;
        let features = strings(array(&written, "features")?);
        let tags = written.get("tags").and_then(Value::as_array).map(|tags| strings(tags));
        let description = written.get("description").and_then(Value::as_str);
        Ok(Self {
            path: path.to_owned(),
            description: description.unwrap_or_default().to_owned(),
            interface_types,
            targets,
            features,
            device,
            mode,
            executable,
            nvram_template,
            tags: tags.unwrap_or_default(),
            text,
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

/// Where a build is loaded, and from which files.
struct Mapping {
    device: Device,
    mode: Option<Mode>,
    executable: File,
    nvram_template: Option<File>,
}

fn mapping(written: &Value) -> Result<Mapping, String> {
    let mapping = written.get("mapping").ok_or("mapping is missing")?;
    let word = string(mapping, "device").ok_or("mapping.device is missing")?;
    let device = Device::parse(word).ok_or_else(|| format!("unknown device {word}"))?;
    if device == Device::Flash {
        return flash(mapping);
    }
    let filename = string(mapping, "filename");
    let filename = filename.ok_or_else(|| format!("the {word} mapping has no filename"))?;
    let executable = raw(filename);
    // Variables that QEMU keeps itself, in a JSON file.
    let variables = mapping.get("uefi-vars").filter(|_| device == Device::Memory);
    let template = |variables| string(variables, "template").ok_or("uefi-vars has no template");
    let nvram_template = variables
        .map(template)
        .transpose()?
        .map(|path| File { path: path.into(), format: "json".to_owned() });
    let mode = if nvram_template.is_some() { Mode::Split } else { Mode::Stateless };
    let mode = (device == Device::Memory).then_some(mode);
    Ok(Mapping { device, mode, executable, nvram_template })
}

/// The mapping of a build in flash. A template counts only in the mode `split`, which needs one; in
/// the other modes libvirt does not look at it.
fn flash(mapping: &Value) -> Result<Mapping, String> {
    let mode = match mapping.get("mode") {
        None => Mode::Split,
        Some(mode) => {
            let word = mode.as_str().ok_or("mapping.mode is not a string")?;
            Mode::parse(word).ok_or_else(|| format!("unknown mode {word}"))?
        }
    };
    let file = |key| {
        let file = mapping.get(key).ok_or_else(|| format!("the flash mapping has no {key}"))?;
        let part = |part| string(file, part).ok_or_else(|| format!("{key} has no {part}"));
        Ok::<_, String>(File { path: part("filename")?.into(), format: part("format")?.to_owned() })
    };
    let executable = file("executable")?;
    let nvram_template = (mode == Mode::Split).then(|| file("nvram-template")).transpose()?;
    Ok(Mapping { device: Device::Flash, mode: Some(mode), executable, nvram_template })
}

fn interface_types(written: &Value) -> Result<Vec<String>, String> {
    let known = |interface: &Value| match interface.as_str() {
        Some(word) if INTERFACES.contains(&word) => Ok(word.to_owned()),
        _ => Err(format!("unknown interface type {interface}")),
    };
    array(written, "interface-types")?.iter().map(known).collect()
}

fn target(written: &Value) -> Result<Target, String> {
    let architecture = string(written, "architecture").ok_or("a target has no architecture")?;
    if !ARCHITECTURES.contains(&architecture) {
        return Err(format!("unknown architecture {architecture}"));
    }
    let machines = strings(array(written, "machines")?);
    Ok(Target { architecture: architecture.to_owned(), machines })
}

fn raw(path: &str) -> File {
    File { path: path.into(), format: "raw".to_owned() }
}

fn array<'a>(of: &'a Value, key: &str) -> Result<&'a Vec<Value>, String> {
    of.get(key).and_then(Value::as_array).ok_or_else(|| format!("{key} is not an array"))
}

fn string<'a>(of: &'a Value, key: &str) -> Option<&'a str> {
    of.get(key).and_then(Value::as_str)
}

/// The strings among some values. libvirt does not look at the others.
fn strings(values: &[Value]) -> Vec<String> {
    values.iter().filter_map(Value::as_str).map(str::to_owned).collect()
}

/// What firmware can be for its guest.
pub const INTERFACES: [&str; 4] = ["bios", "openfirmware", "uboot", "uefi"];

/// The architectures that libvirt knows by QEMU's names.
///
/// Source: libvirt `src/util/virarch.c` and `virQEMUCapsArchFromString`.
const ARCHITECTURES: [&str; 40] = [
    "aarch64",
    "alpha",
    "arm",
    "armv6l",
    "armv7b",
    "armv7l",
    "cris",
    "i386",
    "i686",
    "ia64",
    "itanium",
    "lm32",
    "loongarch64",
    "m68k",
    "microblaze",
    "microblazeel",
    "mips",
    "mips64",
    "mips64el",
    "mipsel",
    "or1k",
    "or32",
    "parisc",
    "parisc64",
    "ppc",
    "ppc64",
    "ppc64le",
    "ppcemb",
    "riscv32",
    "riscv64",
    "s390",
    "s390x",
    "sh4",
    "sh4eb",
    "sparc",
    "sparc64",
    "unicore32",
    "x86_64",
    "xtensa",
    "xtensaeb",
];

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
                r#"{"device":"memory","filename":"/code","uefi-vars":{"template":"/vars"}}"#.into(),
                Device::Memory,
                Some(Mode::Split),
                "raw",
            ),
            (
                format!(
                    r#"{{"device":"flash","mode":"stateless","executable":{file},"nvram-template":{vars}}}"#
                ),
                Device::Flash,
                Some(Mode::Stateless),
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
            (r#"{"device":"memory"}"#, "memory mapping has no filename"),
            (r#"{"device":"flash","filename":"/code"}"#, "flash mapping has no executable"),
            (r#"{"filename":"/code"}"#, "device"),
            (
                r#"{"device":"flash","executable":{"filename":"/c","format":"raw"}}"#,
                "no nvram-template",
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
