//! The values of settings, with the names that libvirt and QEMU use.
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
                    _ => Err(format!("invalid value {text:?}, expected one of {}", [$($text),+].join(", "))),
                }
            }
        }

        impl $name {
            /// Returns the name that libvirt and QEMU use.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $text,)+
                }
            }
        }
    };
}

setting_enum! {
    /// The device that a guest boots from.
    Boot {
        /// The disk of the guest.
        Disk = "hd",
        /// A CD drive.
        Cdrom = "cdrom",
        /// A floppy disk.
        Floppy = "fd",
        /// The network.
        Network = "network",
    }
}

setting_enum! {
    /// A feature of the machine, an element of `<features>`.
    Feature {
        /// ACPI tables, for power management and devices.
        Acpi = "acpi",
        /// Advanced programmable interrupt controllers, for several processors.
        Apic = "apic",
        /// Physical address extension: addresses of more than 32 bits.
        Pae = "pae",
        /// Hardware-assisted paging: EPT or NPT.
        Hap = "hap",
    }
}

setting_enum! {
    /// The backing of a guest's memory.
    MemoryBacking {
        /// Private memory of QEMU.
        Private = "private",
        /// An anonymous file (memfd), which other processes of the host can map.
        Shared = "shared",
    }
}

setting_enum! {
    /// The model of a network card.
    NetworkModel {
        /// A paravirtual card.
        Virtio = "virtio",
        /// Intel 82540EM, for which almost every guest has a driver.
        E1000 = "e1000",
        /// Intel 82574L, for PCI Express.
        E1000e = "e1000e",
        /// Realtek 8139.
        Rtl8139 = "rtl8139",
    }
}

setting_enum! {
    /// The model of a graphics card.
    Video {
        /// No graphics card: the guest has a serial console.
        None = "none",
        /// A paravirtual card.
        Virtio = "virtio",
        /// A paravirtual card for SPICE.
        Qxl = "qxl",
        /// A standard VGA card.
        Vga = "vga",
        /// A standard card without the legacy parts of VGA.
        Bochs = "bochs",
    }
}

setting_enum! {
    /// The bus of a keyboard or a mouse.
    InputBus {
        /// No such device.
        None = "none",
        /// PS/2.
        Ps2 = "ps2",
        /// USB.
        Usb = "usb",
        /// A paravirtual device.
        Virtio = "virtio",
    }
}

setting_enum! {
    /// What libvirt does when a guest powers off, reboots or crashes.
    Lifecycle {
        /// The domain is shut off.
        Destroy = "destroy",
        /// The guest starts again.
        Restart = "restart",
        /// The domain is preserved for inspection.
        Preserve = "preserve",
    }
}

setting_enum! {
    /// The bus of a disk.
    DiskBus {
        /// A paravirtual block device.
        Virtio = "virtio",
        /// A disk of a paravirtual SCSI controller.
        Scsi = "scsi",
        /// A SATA disk.
        Sata = "sata",
    }
}

setting_enum! {
    /// The cache mode of a disk.
    Cache {
        /// The host's page cache is bypassed.
        None = "none",
        /// The host's page cache is used; a flush of the guest writes the data to the disk.
        Writeback = "writeback",
        /// The host's page cache is used; every write goes to the disk at once.
        Writethrough = "writethrough",
        /// The host's page cache is bypassed; every write goes to the disk at once.
        Directsync = "directsync",
        /// Flushes of the guest are ignored: data is lost if the host crashes.
        Unsafe = "unsafe",
    }
}

setting_enum! {
    /// The parts of an image that are allocated when it is created.
    Preallocation {
        /// Nothing.
        Off = "off",
        /// The tables of a qcow2 image.
        Metadata = "metadata",
        /// The whole image, without writing it.
        Falloc = "falloc",
        /// The whole image, filled with zeros.
        Full = "full",
    }
}

setting_enum! {
    /// The compression of qcow2 clusters.
    Compression {
        /// zlib.
        Zlib = "zlib",
        /// zstd, which is faster.
        Zstd = "zstd",
    }
}

/// Defines a setting whose value is two words with a space between them.
macro_rules! setting_pair {
    ($(#[$about:meta])* $name:ident { $first:ident: [$($a:literal),+], $second:ident: [$($b:literal),+] }) => {
        $(#[$about])*
        #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name {
            /// The first word.
            pub $first: String,
            /// The second word.
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
                        "invalid value {text:?}, expected two words: one of {}, then one of {}",
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
    /// An emulated TPM: its model and the version of its specification.
    Tpm { model: ["tpm-crb", "tpm-tis"], version: ["2.0", "1.2"] }
}

setting_pair! {
    /// A watchdog: its model and its action when the guest does not answer.
    Watchdog {
        model: ["i6300esb", "itco", "ib700"],
        action: ["poweroff", "reset", "shutdown", "pause", "dump", "none", "inject-nmi"]
    }
}

/// A directory of the host that the guest can read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HostFilesystem {
    /// Mode of new files in the directory.
    pub fmode: Mode,
    /// Mode of new directories in the directory.
    pub dmode: Mode,
    /// The directory of the host.
    pub source_dir: String,
    /// The mount tag in the guest.
    pub target_dir: String,
}

/// Text that YAML may parse as a number, or as a boolean, as `on` and `off` in YAML 1.1.
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

/// An access mode in octal digits, such as `644`.
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
            Err(format!(
                "invalid value {text:?}, expected an access mode in octal digits, such as 644"
            ))
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
    /// How timer ticks that the guest missed are handled.
    Ticks {
        /// The default of QEMU.
        Default = "default",
        /// Missed ticks are delivered late, at the normal rate.
        Delay = "delay",
        /// Missed ticks are delivered at a higher rate, until the guest has caught up.
        Catchup = "catchup",
        /// Missed ticks are merged into one.
        Merge = "merge",
        /// Missed ticks are discarded.
        Discard = "discard",
    }
}
