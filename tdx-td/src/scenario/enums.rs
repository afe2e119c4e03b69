//! The values that a setting can have, in the words of libvirt and QEMU.
//!
//! Source: <https://libvirt.org/formatdomain.html>, <https://libvirt.org/formatstorage.html>.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Defines a setting with a fixed set of values.
macro_rules! setting_enum {
    ($(#[$about:meta])* $name:ident { $($(#[$what:meta])* $variant:ident = $text:literal,)+ }) => {
        $(#[$about])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(try_from = "Text")]
        pub enum $name {
            $($(#[$what])* #[serde(rename = $text)] $variant,)+
        }

        impl TryFrom<Text> for $name {
            type Error = String;

            fn try_from(Text(text): Text) -> Result<Self, String> {
                match text.as_str() {
                    $($text => Ok(Self::$variant),)+
                    _ => Err(format!("{text:?} is not one of {}", [$($text),+].join(", "))),
                }
            }
        }

        impl $name {
            /// Its name, as libvirt and QEMU write it.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $text,)+
                }
            }
        }
    };
}

setting_enum! {
    /// What a guest boots from.
    Boot {
        /// Its disk.
        Disk = "hd",
        /// A CD.
        Cdrom = "cdrom",
        /// A floppy disk.
        Floppy = "fd",
        /// The network.
        Network = "network",
    }
}

setting_enum! {
    /// A feature of the machine, `<features>`.
    Feature {
        /// Tables of power management and devices.
        Acpi = "acpi",
        /// Interrupts for several processors.
        Apic = "apic",
        /// Addresses of more than 32 bits.
        Pae = "pae",
        /// Memory of a guest within the guest.
        Hap = "hap",
    }
}

setting_enum! {
    /// What a guest's memory is made of.
    MemoryBacking {
        /// Memory of QEMU's own.
        Private = "private",
        /// A nameless file that other processes of the host can map.
        Shared = "shared",
    }
}

setting_enum! {
    /// What a network card is.
    NetworkModel {
        /// Made for guests.
        Virtio = "virtio",
        /// Intel's of 2000, which everything has a driver for.
        E1000 = "e1000",
        /// Intel's for PCI Express.
        E1000e = "e1000e",
        /// Realtek's.
        Rtl8139 = "rtl8139",
    }
}

setting_enum! {
    /// What a graphics card is.
    Video {
        /// There is none: the guest has a serial console.
        None = "none",
        /// Made for guests.
        Virtio = "virtio",
        /// Made for SPICE.
        Qxl = "qxl",
        /// The plainest.
        Vga = "vga",
        /// Without what VGA has of old.
        Bochs = "bochs",
    }
}

setting_enum! {
    /// How a keyboard or a mouse is connected.
    InputBus {
        /// There is none.
        None = "none",
        /// As in old machines.
        Ps2 = "ps2",
        /// By USB.
        Usb = "usb",
        /// Made for guests.
        Virtio = "virtio",
    }
}

setting_enum! {
    /// What follows when a guest is at its end.
    Lifecycle {
        /// It is off.
        Destroy = "destroy",
        /// It starts again.
        Restart = "restart",
        /// It stays as it is, to be looked at.
        Preserve = "preserve",
    }
}

setting_enum! {
    /// What a disk is connected by.
    DiskBus {
        /// Made for guests.
        Virtio = "virtio",
        /// SCSI, made for guests.
        Scsi = "scsi",
        /// As in most machines.
        Sata = "sata",
    }
}

setting_enum! {
    /// What QEMU does about the host's cache.
    Cache {
        /// Goes around it.
        None = "none",
        /// Is told when data is on the disk.
        Writeback = "writeback",
        /// Has each write on the disk at once.
        Writethrough = "writethrough",
        /// Goes around it, and has each write on the disk at once.
        Directsync = "directsync",
        /// Never waits for the disk: what the guest wrote is lost when the host crashes.
        Unsafe = "unsafe",
    }
}

setting_enum! {
    /// What of an image is allocated beforehand.
    Preallocation {
        /// Nothing.
        Off = "off",
        /// qcow2: the tables.
        Metadata = "metadata",
        /// Everything, unwritten.
        Falloc = "falloc",
        /// Everything, written.
        Full = "full",
    }
}

setting_enum! {
    /// How clusters are compressed.
    Compression {
        /// zlib.
        Zlib = "zlib",
        /// Faster.
        Zstd = "zstd",
    }
}

/// Defines a setting that is written as two words with a space between them.
macro_rules! setting_pair {
    ($(#[$about:meta])* $name:ident { $first:ident: [$($a:literal),+], $second:ident: [$($b:literal),+] }) => {
        $(#[$about])*
        #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name {
            /// The first word.
            pub $first: String,
            /// The second one.
            pub $second: String,
        }

        impl TryFrom<String> for $name {
            type Error = String;

            fn try_from(text: String) -> Result<Self, String> {
                let firsts: &[&str] = &[$($a),+];
                let seconds: &[&str] = &[$($b),+];
                match text.split_once(' ') {
                    Some(($first, $second)) if firsts.contains(&$first) && seconds.contains(&$second) => {
                        Ok(Self { $first: $first.to_owned(), $second: $second.to_owned() })
                    }
                    _ => Err(format!(
                        "{text:?} is not one of {} and one of {}",
                        firsts.join(", "),
                        seconds.join(", ")
                    )),
                }
            }
        }

        impl From<$name> for String {
            fn from(value: $name) -> Self {
                format!("{} {}", value.$first, value.$second)
            }
        }
    };
}

setting_pair! {
    /// An emulated TPM: what the guest sees, and the version of its commands.
    Tpm { model: ["tpm-crb", "tpm-tis"], version: ["2.0", "1.2"] }
}

setting_pair! {
    /// A watchdog, and what it does when the guest does not answer.
    Watchdog {
        model: ["i6300esb", "itco", "ib700"],
        action: ["poweroff", "reset", "shutdown", "pause", "dump", "none", "inject-nmi"]
    }
}

/// A folder of the host that the guest can read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HostFilesystem {
    /// Mode of files that come to be in it.
    pub fmode: Mode,
    /// Mode of folders that come to be in it.
    pub dmode: Mode,
    /// The folder.
    pub source_dir: String,
    /// What the guest mounts it by.
    pub target_dir: String,
}

/// Text that YAML may take for a number, or for a boolean, which `on` and `off` are in YAML 1.1.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(from = "Scalar", into = "String")]
pub struct Text(pub String);

#[derive(Deserialize)]
#[serde(untagged, expecting = "expected a word")]
enum Scalar {
    Text(String),
    Number(i64),
    Switch(bool),
}

impl From<Scalar> for Text {
    fn from(scalar: Scalar) -> Self {
        Self(match scalar {
            Scalar::Text(text) => text,
            Scalar::Number(number) => number.to_string(),
            Scalar::Switch(true) => "on".to_owned(),
            Scalar::Switch(false) => "off".to_owned(),
        })
    }
}

impl From<Text> for String {
    fn from(text: Text) -> Self {
        text.0
    }
}

/// An access mode in octal digits, `644`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Text", into = "String")]
pub struct Mode(pub String);

impl TryFrom<Text> for Mode {
    type Error = String;

    fn try_from(Text(text): Text) -> Result<Self, String> {
        let octal = text.bytes().all(|digit| (b'0'..=b'7').contains(&digit));
        if octal && (3..=4).contains(&text.len()) {
            Ok(Self(text))
        } else {
            Err(format!("{text:?} is not an access mode such as 644"))
        }
    }
}

impl From<Mode> for String {
    fn from(Mode(mode): Mode) -> Self {
        mode
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

setting_enum! {
    /// What is done about ticks of a clock that the guest missed.
    Ticks {
        /// QEMU's own choice.
        Default = "default",
        /// They come late.
        Delay = "delay",
        /// They come at once, until it has caught up.
        Catchup = "catchup",
        /// They become one.
        Merge = "merge",
        /// They are forgotten.
        Discard = "discard",
    }
}
