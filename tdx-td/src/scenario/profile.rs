//! What a scenario asks for, setting by setting: of the guest, its disk, and the host.
//!
//! Every setting has a place in each of the built-in scenarios' files, `tdx-td/scenarios/*.yaml`.

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
    /// What the guest is made of.
    pub guest: Guest,
    /// A disk that is made for the guest.
    pub storage: Storage,
    /// What the host is tuned to.
    pub host: Host,
}

/// Something that is on or off.
///
/// Written as `on` or `off`, which YAML 1.1 calls booleans; `true`, `yes`, `enable` and their opposites are read, too.
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

    /// As libvirt writes it in most places.
    pub fn yes_no(self) -> &'static str {
        if self.0 { "yes" } else { "no" }
    }

    /// As libvirt writes it in the others, and the kernel in messages.
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

/// What the guest is made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Guest {
    /// Virtual CPUs; what fits the host without it.
    pub vcpus: Option<u32>,
    /// Memory; what fits the host without it.
    #[serde(serialize_with = "size")]
    pub memory: Option<Size>,
    /// Machine type, as QEMU names it.
    pub machine: String,
    /// QEMU; libvirt's choice without it.
    pub emulator: Option<String>,
    /// What is booted from.
    pub boot: Boot,
    /// Whether the processor shows only what it has on other hosts, too; libvirt's choice without it.
    pub cpu_migratable: Option<OnOff>,
    /// Features of the machine, in whatever order.
    #[serde(deserialize_with = "set_of_features")]
    pub features: Vec<Feature>,
    /// Whether only signed software boots.
    pub secure_boot: AutoOr<OnOff>,
    /// System management mode, in which firmware guards its variables.
    pub smm: AutoOr<OnOff>,
    /// What the guest's memory is made of.
    pub memory_backing: MemoryBacking,
    /// Memory that QEMU may take beyond the guest's own; unlimited without it.
    #[serde(serialize_with = "size")]
    pub memory_headroom: Option<Size>,
    /// Threads of their own for the disks. The first one serves the guest's disk.
    pub iothreads: u32,
    /// libvirt network.
    pub network: Option<String>,
    /// What the network card is.
    pub network_model: NetworkModel,
    /// What the graphics card is. With one there is a VNC server for it, on this host alone.
    pub video: Video,
    /// How the keyboard is connected.
    pub keyboard: InputBus,
    /// How the mouse is connected.
    pub mouse: InputBus,
    /// An emulated TPM.
    #[serde(with = "none")]
    pub tpm: Option<Tpm>,
    /// A watchdog.
    #[serde(with = "none")]
    pub watchdog: Option<Watchdog>,
    /// A folder of the host, for the guest to read.
    #[serde(with = "none")]
    pub host_filesystem: Option<HostFilesystem>,
    /// What is done about ticks of the real-time clock that the guest missed.
    pub rtc_ticks: Ticks,
    /// The same of the interval timer of the first PCs.
    pub pit_ticks: Ticks,
    /// What follows when the guest powers off.
    pub on_poweroff: Lifecycle,
    /// What follows when the guest reboots.
    pub on_reboot: Lifecycle,
    /// What follows when the guest crashes.
    pub on_crash: Lifecycle,
    /// Whether the guest is told that it can sleep; libvirt's choice without it.
    pub suspend_to_mem: Option<OnOff>,
    /// Whether the guest is told that it can hibernate; libvirt's choice without it.
    pub suspend_to_disk: Option<OnOff>,
}

/// A disk that is made for the guest. Of one that is an overlay, `cache`, `bus` and `target` count.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Storage {
    /// Format of the image.
    pub format: Format,
    /// Size the guest sees.
    #[serde(serialize_with = "size")]
    pub capacity: Option<Size>,
    /// What the disk is connected by.
    pub bus: DiskBus,
    /// Its name in the definition, `vda`.
    pub target: String,
    /// What QEMU does about the host's cache; its own choice without it.
    pub cache: Option<Cache>,
    /// What is allocated beforehand.
    pub preallocation: Preallocation,
    /// LUKS, by the host.
    pub encryption: OnOff,
    /// qcow2: whether reference counts are written late.
    pub lazy_refcounts: OnOff,
    /// qcow2: size of a cluster; QEMU's choice without it.
    #[serde(serialize_with = "size")]
    pub cluster_size: Option<Size>,
    /// qcow2: how compressed clusters are; QEMU's choice without it.
    pub compression_type: Option<Compression>,
}

fn set_of_features<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Feature>, D::Error> {
    let mut features = Vec::<Feature>::deserialize(deserializer)?;
    features.sort_by_key(|feature| feature.as_str());
    features.dedup();
    Ok(features)
}

/// In the largest unit that loses nothing.
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

/// For something that there can be none of, and then the word for it.
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

/// A setting that follows from other settings, unless it is set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AutoOr<T> {
    /// It follows from other settings.
    Auto,
    /// It is set.
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
/// What the host is tuned to. A setting that is not there is left as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Host {
    /// `/sys/kernel/mm/transparent_hugepage/enabled`.
    pub transparent_hugepages: Option<HugePageUse>,
    /// Pages of 2 MiB to reserve, `/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages`.
    pub hugepages: Option<u64>,
    /// Whether the kernel merges pages of the same content, `/sys/kernel/mm/ksm/run`.
    pub ksm: Option<OnOff>,
    /// Whether it merges those of different NUMA nodes, `/sys/kernel/mm/ksm/merge_across_nodes`.
    pub ksm_merge_across_nodes: Option<OnOff>,
    /// `/proc/sys/vm/swappiness`, 0 to 200.
    pub swappiness: Option<Swappiness>,
    /// IO scheduler of the disks that the guest's images are on, `/sys/block/*/queue/scheduler`.
    #[serde(default, deserialize_with = "one_word")]
    pub io_scheduler: Option<String>,
    /// Options of kernel modules by module and name, such as `kvm_amd: {sev: "1"}`.
    #[serde(default, deserialize_with = "modules")]
    pub modules: BTreeMap<String, BTreeMap<String, Text>>,
    /// Words that the kernel command line has to have. They are checked, never written.
    #[serde(default, deserialize_with = "plain_words")]
    pub kernel_arguments: Vec<String>,
}

/// Options of modules are lines of files that root's programs read, where more than a word is another line.
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
            return Err(de::Error::custom(format!("{name:?} is no name of a module or an option")));
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
        Err(format!("{word:?} is not one plain word"))
    }
}

/// When the kernel uses huge pages without being asked.
///
/// Source: Linux `Documentation/admin-guide/mm/transhuge.rst`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum HugePageUse {
    /// Wherever it can.
    Always,
    /// Where a program says so.
    Madvise,
    /// Nowhere.
    Never,
}

impl HugePageUse {
    /// The kernel's word for it.
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
            _ => Err(format!("{value} is more than 200")),
        }
    }
}
