//! All settings of a scenario: of the guest, its disk, and the host.
//!
//! The built-in scenarios are in `tdx-td/scenarios/*.yaml`.

use std::collections::BTreeMap;
use std::fmt;

use common::units::Size;
use schemars::JsonSchema;
use serde::de::{Deserializer, Visitor};
use serde::{Deserialize, Serialize, Serializer, de};
use tdx_pool::image::Format;

use crate::scenario::enums::{
    Boot, Cache, Compression, DiskBus, Feature, HostFilesystem, InputBus, Lifecycle, MemoryBacking,
    NetworkModel, Preallocation, Text, Ticks, Tpm, Video, Watchdog,
};

/// All settings.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    /// Settings of the guest.
    pub guest: Guest,
    /// Settings of a new disk for the guest.
    pub storage: Storage,
    /// Settings of the host.
    pub host: Host,
}

/// A setting that is on or off.
///
/// It is written as `on` or `off`, which are booleans in YAML 1.1. `true`, `yes`, `enable` and their opposites are
/// accepted as well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OnOff(pub bool);

impl OnOff {
    fn parse(text: &str) -> Option<Self> {
        match text {
            "on" | "yes" | "true" | "enable" => Some(Self(true)),
            "off" | "no" | "false" | "disable" => Some(Self(false)),
            _ => None,
        }
    }

    /// Returns `yes` or `no`, as most elements of libvirt need it.
    pub fn yes_no(self) -> &'static str {
        if self.0 { "yes" } else { "no" }
    }

    /// Returns `on` or `off`, as other elements of libvirt need it.
    pub fn on_off(self) -> &'static str {
        if self.0 { "on" } else { "off" }
    }
}

impl Serialize for OnOff {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.on_off())
    }
}

impl<'de> Deserialize<'de> for OnOff {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OnOffVisitor;
        impl Visitor<'_> for OnOffVisitor {
            type Value = OnOff;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("on or off")
            }

            fn visit_bool<E: de::Error>(self, on: bool) -> Result<OnOff, E> {
                Ok(OnOff(on))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<OnOff, E> {
                OnOff::parse(text).ok_or_else(|| E::invalid_value(de::Unexpected::Str(text), &self))
            }
        }
        deserializer.deserialize_any(OnOffVisitor)
    }
}

/// The settings of the guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Guest {
    /// Number of virtual CPUs; without it, a number that fits the host.
    pub vcpus: Option<u32>,
    /// Memory; without it, a size that fits the host.
    #[serde(serialize_with = "size")]
    pub memory: Option<Size>,
    /// Machine type, as QEMU names it.
    pub machine: String,
    /// Path of QEMU; without it, libvirt's choice.
    pub emulator: Option<String>,
    /// Boot device.
    pub boot: Boot,
    /// Whether the guest sees only processor features that allow migration; without it, libvirt's choice.
    pub cpu_migratable: Option<OnOff>,
    /// Features of the machine.
    #[serde(deserialize_with = "set_of_features")]
    pub features: Vec<Feature>,
    /// Whether secure boot is on, so that only signed software boots.
    pub secure_boot: AutoOr<OnOff>,
    /// System management mode, which firmware uses to protect its variables.
    pub smm: AutoOr<OnOff>,
    /// Backing of the guest's memory.
    pub memory_backing: MemoryBacking,
    /// Memory that QEMU may use beyond the guest's own; without it, unlimited.
    #[serde(serialize_with = "size")]
    pub memory_headroom: Option<Size>,
    /// Number of IO threads for disks. The first one serves the guest's disk.
    pub iothreads: u32,
    /// libvirt network.
    pub network: Option<String>,
    /// Model of the network card.
    pub network_model: NetworkModel,
    /// Model of the graphics card. With one, a VNC server listens on 127.0.0.1.
    pub video: Video,
    /// Bus of the keyboard.
    pub keyboard: InputBus,
    /// Bus of the mouse.
    pub mouse: InputBus,
    /// An emulated TPM.
    #[serde(with = "none")]
    pub tpm: Option<Tpm>,
    /// A watchdog.
    #[serde(with = "none")]
    pub watchdog: Option<Watchdog>,
    /// A directory of the host that the guest can read.
    #[serde(with = "none")]
    pub host_filesystem: Option<HostFilesystem>,
    /// How missed ticks of the real-time clock are handled.
    pub rtc_ticks: Ticks,
    /// How missed ticks of the programmable interval timer are handled.
    pub pit_ticks: Ticks,
    /// What libvirt does when the guest powers off.
    pub on_poweroff: Lifecycle,
    /// What libvirt does when the guest reboots.
    pub on_reboot: Lifecycle,
    /// What libvirt does when the guest crashes.
    pub on_crash: Lifecycle,
    /// Whether the guest is offered suspend to memory (S3); without it, libvirt's choice.
    pub suspend_to_mem: Option<OnOff>,
    /// Whether the guest is offered suspend to disk (S4); without it, libvirt's choice.
    pub suspend_to_disk: Option<OnOff>,
}

/// The settings of a new disk. Only `cache`, `bus` and `target` apply to overlays and existing images.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Storage {
    /// Format of the image.
    pub format: Format,
    /// Size of the disk as the guest sees it.
    #[serde(serialize_with = "size")]
    pub capacity: Option<Size>,
    /// Bus of the disk.
    pub bus: DiskBus,
    /// Name of the disk in the definition, such as `vda`.
    pub target: String,
    /// Cache mode; without it, QEMU's default.
    pub cache: Option<Cache>,
    /// The parts of the image that are allocated when it is created.
    pub preallocation: Preallocation,
    /// Whether the host encrypts the disk with LUKS.
    pub encryption: OnOff,
    /// Whether the reference counts of a qcow2 image are written lazily.
    pub lazy_refcounts: OnOff,
    /// Cluster size of a qcow2 image; without it, QEMU's default.
    #[serde(serialize_with = "size")]
    pub cluster_size: Option<Size>,
    /// Compression of a qcow2 image; without it, QEMU's default.
    pub compression_type: Option<Compression>,
}

fn set_of_features<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Feature>, D::Error> {
    let mut features = Vec::<Feature>::deserialize(deserializer)?;
    features.sort_by_key(|feature| feature.as_str());
    features.dedup();
    Ok(features)
}

/// Serializes a size in the largest unit that divides it.
fn size<S: Serializer>(size: &Option<Size>, serializer: S) -> Result<S::Ok, S::Error> {
    let Some(Size(bytes)) = *size else {
        return serializer.serialize_none();
    };
    let units = [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")];
    let unit = units.into_iter().find(|(shift, _)| bytes > 0 && bytes.trailing_zeros() >= *shift);
    match unit {
        Some((shift, unit)) => serializer.collect_str(&format_args!("{}{unit}", bytes >> shift)),
        None => serializer.serialize_u64(bytes),
    }
}

/// Serializes `None` as the word `none`.
mod none {
    use serde::de::{DeserializeOwned, Deserializer, Error};
    use serde::{Deserialize, Serialize, Serializer};
    use serde_json::Value;

    pub(crate) fn serialize<T: Serialize, S: Serializer>(
        value: &Option<T>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match value {
            Some(value) => value.serialize(serializer),
            None => serializer.serialize_str("none"),
        }
    }

    pub(crate) fn deserialize<'de, T: DeserializeOwned, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<T>, D::Error> {
        match Value::deserialize(deserializer)? {
            Value::String(word) if word == "none" => Ok(None),
            value => serde_json::from_value(value).map(Some).map_err(D::Error::custom),
        }
    }
}

/// A setting that may be derived from other settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AutoOr<T> {
    /// The value is derived from other settings.
    Auto,
    /// The value is set.
    Is(T),
}

impl Serialize for AutoOr<OnOff> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Auto => serializer.serialize_str("auto"),
            Self::Is(switch) => switch.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for AutoOr<OnOff> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "expected auto, on or off")]
        enum Either {
            Word(Word),
            Switch(OnOff),
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "lowercase")]
        enum Word {
            Auto,
        }
        Ok(match Either::deserialize(deserializer)? {
            Either::Word(Word::Auto) => Self::Auto,
            Either::Switch(switch) => Self::Is(switch),
        })
    }
}
/// The settings of the host. A setting without a value is not changed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Host {
    /// Use of transparent huge pages, `/sys/kernel/mm/transparent_hugepage/enabled`.
    pub transparent_hugepages: Option<HugePageUse>,
    /// Number of reserved pages of 2 MiB, `/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages`.
    pub hugepages: Option<u64>,
    /// Whether the kernel merges identical pages, `/sys/kernel/mm/ksm/run`.
    pub ksm: Option<OnOff>,
    /// Whether the kernel merges pages of different NUMA nodes, `/sys/kernel/mm/ksm/merge_across_nodes`.
    pub ksm_merge_across_nodes: Option<OnOff>,
    /// How willing the kernel is to swap, `/proc/sys/vm/swappiness`, 0 to 200.
    pub swappiness: Option<Swappiness>,
    /// IO scheduler of the disks that hold guests' images, `/sys/block/*/queue/scheduler`.
    #[serde(default, deserialize_with = "one_word")]
    pub io_scheduler: Option<String>,
    /// Options of kernel modules by module and name, such as `kvm_amd: {sev: "1"}`.
    #[serde(default, deserialize_with = "modules")]
    pub modules: BTreeMap<String, BTreeMap<String, Text>>,
    /// Arguments that the kernel command line must have. They are checked, but never written.
    #[serde(default, deserialize_with = "plain_words")]
    pub kernel_arguments: Vec<String>,
}

/// Deserializes module options. Names and values must be single words: they are written into files that programs
/// of root read.
fn modules<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<BTreeMap<String, BTreeMap<String, Text>>, D::Error> {
    let modules = BTreeMap::<String, BTreeMap<String, Text>>::deserialize(deserializer)?;
    let is_name = |name: &String| {
        let letter = |b: u8| b.is_ascii_alphanumeric() || b"_-".contains(&b);
        !name.is_empty() && name.bytes().all(letter)
    };
    for (module, options) in &modules {
        if let Some(name) = [module].into_iter().chain(options.keys()).find(|name| !is_name(name)) {
            return Err(de::Error::custom(format!(
                "invalid name {name:?}, expected the name of a module or an option"
            )));
        }
        for Text(value) in options.values() {
            check_word(value).map_err(de::Error::custom)?;
        }
    }
    Ok(modules)
}

fn one_word<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    let word = Option::<String>::deserialize(deserializer)?;
    word.iter().try_for_each(check_word).map_err(de::Error::custom)?;
    Ok(word)
}

fn plain_words<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    let words = Vec::<String>::deserialize(deserializer)?;
    words.iter().try_for_each(check_word).map_err(de::Error::custom)?;
    Ok(words)
}

fn check_word(word: &String) -> Result<(), String> {
    let plain = |b: u8| b.is_ascii_graphic() && !b"\"'\\#".contains(&b);
    if !word.is_empty() && word.bytes().all(plain) {
        Ok(())
    } else {
        Err(format!("invalid value {word:?}, expected one word without quotes, backslashes and #"))
    }
}

/// When the kernel uses transparent huge pages.
///
/// Source: Linux `Documentation/admin-guide/mm/transhuge.rst`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum HugePageUse {
    /// For all memory.
    Always,
    /// For memory for which a program requests it.
    Madvise,
    /// Never.
    Never,
}

impl HugePageUse {
    /// Returns the word that the kernel uses.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Always => "always",
            Self::Madvise => "madvise",
            Self::Never => "never",
        }
    }
}

/// How willing the kernel is to swap, 0 to 200.
///
/// Source: Linux `Documentation/admin-guide/sysctl/vm.rst`, "swappiness".
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "u64")]
pub struct Swappiness(pub u8);

impl TryFrom<u64> for Swappiness {
    type Error = String;

    fn try_from(value: u64) -> Result<Self, String> {
        match u8::try_from(value) {
            Ok(value @ 0..=200) => Ok(Self(value)),
            _ => Err(format!("invalid value {value}, expected 0 to 200")),
        }
    }
}
