//! Firmware descriptors, which describe the properties of firmware builds.
//!
//! A file counts as a descriptor exactly if libvirt's parser accepts it, because libvirt chooses the build.
//!
//! Source: QEMU `docs/interop/firmware.json`, `Firmware`; libvirt `src/qemu/qemu_firmware.c`,
//! `qemuFirmwareParse`.

use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// How firmware is loaded into the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Device {
    /// In two flash chips, for code and for variables.
    Flash,
    /// In the way a Linux kernel is loaded.
    Kernel,
    /// In read-only memory.
    Memory,
    /// From an IGVM file, which states the memory addresses of its parts.
    Igvm,
}

impl Device {
    /// Parses the name that descriptors use.
    fn parse(word: &str) -> Option<Self> {
        [Self::Flash, Self::Kernel, Self::Memory, Self::Igvm]
            .into_iter()
            .find(|d| d.as_str() == word)
    }

    /// Returns the name that descriptors use.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Flash => "flash",
            Self::Kernel => "kernel",
            Self::Memory => "memory",
            Self::Igvm => "igvm",
        }
    }
}

/// Where firmware stores its variables.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// In a separate file of each guest, created from a template.
    Split,
    /// In one file with the code, of which each guest has a copy.
    Combined,
    /// The firmware stores no variables.
    Stateless,
}

impl Mode {
    /// Parses the name that descriptors use.
    fn parse(word: &str) -> Option<Self> {
        [Self::Split, Self::Combined, Self::Stateless].into_iter().find(|m| m.as_str() == word)
    }

    /// Returns the name that descriptors use.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Split => "split",
            Self::Combined => "combined",
            Self::Stateless => "stateless",
        }
    }
}

/// A file of a firmware build.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct File {
    /// Path of the file.
    pub path: PathBuf,
    /// Format of the file: `raw`, `qcow2` or `json`.
    pub format: String,
}

/// An architecture and its machine types that a firmware build supports.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Target {
    /// Architecture, as QEMU names it, such as `x86_64`.
    pub architecture: String,
    /// Patterns of versioned machine types, such as `pc-q35-*`.
    pub machines: Vec<String>,
}

/// The descriptor of a firmware build.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Descriptor {
    /// Path of the descriptor.
    pub path: PathBuf,
    /// Text of the file.
    pub text: String,
    /// Description of the build.
    pub description: String,
    /// Interfaces that the build offers to the guest, the preferred one first: `uefi`, `bios`, …
    pub interface_types: Vec<String>,
    /// Architectures and machine types that the build supports.
    pub targets: Vec<Target>,
    /// Features that the build has or requires.
    pub features: Vec<String>,
    /// How the build is loaded into the guest.
    pub device: Device,
    /// Where the build stores its variables; `None` if its device has no mode.
    pub mode: Option<Mode>,
    /// The firmware image.
    pub executable: File,
    /// The file that a guest's variable store is created from.
    pub nvram_template: Option<File>,
    /// Tags of the distributor.
    pub tags: Vec<String>,
}

impl Descriptor {
    /// Parses a descriptor.
    ///
    /// Errors: the reason why libvirt does not accept the text.
    pub fn parse(path: &Path, text: String) -> Result<Self, String> {
        // libvirt passes the text to its parser as a C string.
        let read = text.split('\0').next().unwrap_or_default();
        let written: Value = serde_json::from_str(read).map_err(|error| error.to_string())?;
        if !written.is_object() {
            return Err("the file is not a JSON object".to_owned());
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

    /// Returns the file name. Descriptors are sorted by this name, and one replaces another of the same name.
    pub fn name(&self) -> String {
        self.path.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// Whether the build has a feature.
    pub fn has(&self, feature: &str) -> bool {
        self.features.iter().any(|has| has == feature)
    }
}

/// How a build is loaded, and its files.
struct Mapping {
    device: Device,
    mode: Option<Mode>,
    executable: File,
    nvram_template: Option<File>,
}

fn mapping(written: &Value) -> Result<Mapping, String> {
    let mapping = written.get("mapping").ok_or("key mapping is missing")?;
    let word = string(mapping, "device").ok_or("key mapping.device is missing")?;
    let device = Device::parse(word).ok_or_else(|| format!("unknown device {word}"))?;
    if device == Device::Flash {
        return flash(mapping);
    }
    let filename = string(mapping, "filename");
    let filename = filename.ok_or_else(|| format!("the {word} mapping has no filename"))?;
    let executable = raw(filename);
    // QEMU stores these variables itself, in a JSON file.
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

/// Parses the mapping of a build in flash. Mode `split` needs a template. In the other modes libvirt ignores
/// the template.
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

/// Returns the strings in a list of values. libvirt ignores the other values.
fn strings(values: &[Value]) -> Vec<String> {
    values.iter().filter_map(Value::as_str).map(str::to_owned).collect()
}

/// The interfaces that firmware can offer to its guest.
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
    fn parse_accepts_every_mapping() {
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
    fn parse_says_why_a_text_is_not_a_descriptor() {
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
        fn parse_does_not_panic_on_any_text(text in "\\PC*") {
            let _ = Descriptor::parse(Path::new("/x/50-a.json"), text);
        }

        /// The same for what is nearly one: a good descriptor with a piece of it replaced.
        #[test]
        fn parse_does_not_panic_on_a_damaged_descriptor(at in 0..400_usize, piece in "[\\[\\]{}\":,a-z0-9]{0,4}") {
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
