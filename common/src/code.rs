//! The one list of codes: what can stand in the way, under names that never change.

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};

/// What a code means for a verb that would change something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// It is not done, whatever is asked.
    Refuse,
    /// It is done only with `--force CODE`.
    Forceable,
    /// It is done and the code is told.
    Note,
}

/// The names of codes, separated by commas: a cell of a table.
pub fn join_codes(codes: &[Code]) -> String {
    codes.iter().map(|code| code.as_str()).collect::<Vec<_>>().join(",")
}

macro_rules! codes {
    ($($variant:ident $name:literal $level:ident $meaning:literal,)*) => {
        /// A stable code. Codes are added, never renamed or given another meaning.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[non_exhaustive]
        pub enum Code {
            $(#[doc = $meaning] $variant,)*
        }

        impl Code {
            /// Every code, sorted by name.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The code as users see it.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// Whether it stops a change.
            pub fn level(self) -> Level {
                match self { $(Self::$variant => Level::$level,)* }
            }

            /// What it says of a device, in one clause.
            pub fn meaning(self) -> &'static str {
                match self { $(Self::$variant => $meaning,)* }
            }
        }
    };
}

codes! {
    AcsOverride "ACS_OVERRIDE" Note
        "the kernel command line changes ACS, so groups may claim an isolation that is not there",
    BadKind "BAD_KIND" Forceable
        "it is no disk but an optical drive, a floppy, a place for firmware, or made of memory",
    Claimed "CLAIMED" Refuse
        "the kernel has it, or a partition of it, in exclusive use, whoever for",
    ConsoleGpu "CONSOLE_GPU" Forceable
        "it shows the host's console, or a monitor is connected to it",
    DuplicateId "DUPLICATE_ID" Note
        "another disk has the same serial number, so that a name made of it may mean either",
    Exported "EXPORTED" Refuse
        "the host exports it, by iSCSI or NVMe, or a loop device stands on it",
    GuestRefused "GUEST_REFUSED" Refuse
        "the guest was asked to let go of it and said no",
    HasData "HAS_DATA" Note
        "a file system, an encrypted volume, swap space or a partition table is on it, all unused",
    Holders "HOLDERS" Refuse
        "a mapping, a volume, an array or a cache of the host is made of it",
    HostDiskMounted "HOST_DISK_MOUNTED" Refuse
        "the host uses a disk behind it: mounted, or part of a volume, an array or a mapping",
    HostDiskRoot "HOST_DISK_ROOT" Refuse
        "the host's root, boot or swap stands on a disk behind it",
    HostDriver "HOST_DRIVER" Refuse
        "a driver of the host holds a device of its group that was not asked for",
    HostNetDefaultRoute "HOST_NET_DEFAULT_ROUTE" Forceable
        "the host's default route goes through it",
    Identity "IDENTITY" Note
        "it has no name that stays the same",
    IdentityChanged "IDENTITY_CHANGED" Refuse
        "it is not the device, disk, domain or pool that was recorded, or that the item on standard input describes",
    InUseByVm "IN_USE_BY_VM" Refuse
        "a guest has it: a domain's disk or device, or a process holds its VFIO node, or that of its group, open",
    IsPartition "IS_PARTITION" Forceable
        "it is a partition and not the whole disk",
    MdevChildren "MDEV_CHILDREN" Refuse
        "mediated devices were made of it",
    Mounted "MOUNTED" Refuse
        "a file system on it is mounted, in some mount namespace",
    MultipathPath "MULTIPATH_PATH" Refuse
        "it is one of the paths to a disk, which the multipath map stands for",
    NoiommuMode "NOIOMMU_MODE" Refuse
        "its group exists without an IOMMU (vfio-noiommu): nothing isolates it",
    Nonendpoint "NONENDPOINT" Refuse
        "it is a bridge, which cannot be given to a guest",
    NotAttested "NOT_ATTESTED" Refuse
        "the guest was not launched with the firmware, policy and keys that it was to be launched with",
    NotBlock "NOT_BLOCK" Refuse
        "it is no block device",
    NoGroup "NO_GROUP" Refuse
        "it is in no IOMMU group, though this host has some",
    NoIommu "NO_IOMMU" Refuse
        "this host has no IOMMU groups",
    NoMedium "NO_MEDIUM" Refuse
        "there is no medium in it, or it has no size",
    NoReset "NO_RESET" Note
        "it cannot be reset, so a guest finds it as the one before left it",
    Offline "OFFLINE" Refuse
        "its driver does not have it running",
    OpenFds "OPEN_FDS" Forceable
        "a process holds one of its device nodes open",
    PfHasVfs "PF_HAS_VFS" Refuse
        "it has virtual functions, which have to go first",
    QemuLock "QEMU_LOCK" Refuse
        "a QEMU has locked it",
    ReadOnly "READ_ONLY" Refuse
        "it can only be read, and --readonly was not asked for",
    Reserved "RESERVED" Refuse
        "another run is about to use it",
    SensitiveClass "SENSITIVE_CLASS" Forceable
        "the machine itself needs devices of its class, or the host uses what is behind it",
    Signature "SIGNATURE" Forceable
        "it bears the label of a volume group, an array, a pool, a cache or a saved memory, which others may bring to life",
    StillAttached "STILL_ATTACHED" Refuse
        "the guest was asked to let go of it and has not yet",
    Swap "SWAP" Refuse
        "the host swaps to it",
    SystemDisk "SYSTEM_DISK" Refuse
        "the host runs from it: its root, what it boots from, or the memory it resumes from",
    UnlistedMember "UNLISTED_MEMBER" Note
        "its group has a device that was not asked for and that the host cannot use meanwhile",
}

impl Code {
    /// A code that a user forces, for clap.
    ///
    /// Errors: for what is no code, and for one that cannot be forced.
    pub fn to_force(text: &str) -> Result<Self, String> {
        match Self::ALL.iter().find(|code| code.as_str() == text) {
            None => Err("no such code: check names them".to_owned()),
            Some(code) if code.level() == Level::Refuse => {
                Err("what this stands for cannot be forced".to_owned())
            }
            Some(code) => Ok(*code),
        }
    }
}

impl Serialize for Code {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for Code {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        let known = Self::ALL.iter().find(|code| code.as_str() == name);
        known.copied().ok_or_else(|| serde::de::Error::custom(format!("there is no code {name:?}")))
    }
}

/// The schema of a code, whichever list it is of: a string, since which codes there are grows.
pub fn schema() -> schemars::Schema {
    schemars::json_schema!({
        "type": "string",
        "pattern": "^[A-Z][A-Z0-9_]*$",
        "description": "A stable code of docs/codes.md. Codes are added, never renamed."
    })
}

impl JsonSchema for Code {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Code".into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schema()
    }
}

/// The page `docs/codes.md`.
pub fn page() -> String {
    let mut text = "# Codes\n\n\
        What can stand in the way of giving a device to a guest. Scripts may rely on the names: codes are\n\
        added, never renamed. They are `blockers` of devices and groups, `code` of what `check` finds, and\n\
        `error.code` of a command that was refused.\n\n\
        **refuse** is never done; **forceable** is done with `--force CODE`; a **note** stops nothing and is\n\
        no blocker.\n\n\
        | code | | what it says of a device |\n|---|---|---|\n"
        .to_owned();
    for code in Code::ALL {
        let level = match code.level() {
            Level::Refuse => "refuse",
            Level::Forceable => "forceable",
            Level::Note => "note",
        };
        text.push_str(&format!("| `{}` | {level} | {} |\n", code.as_str(), code.meaning()));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_upper_snake_once_and_sorted() {
        let names: Vec<&str> = Code::ALL.iter().map(|code| code.as_str()).collect();
        for name in &names {
            assert!(name.bytes().all(|b| b.is_ascii_uppercase() || b == b'_'), "{name}");
        }
        assert!(names.is_sorted_by(|a, b| a < b), "{names:?}");
    }
}
