//! The list of stable codes: the reasons why a device, disk or guest is refused or reported.

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};

/// What a code means for a verb that changes something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// The verb refuses the device, and no option overrides that.
    Refuse,
    /// The verb refuses the device unless `--force CODE` names the code.
    Forceable,
    /// The verb accepts the device and reports the code.
    Note,
}

/// The names of codes, separated by commas, for a cell of a table.
pub fn join_codes(codes: &[Code]) -> String {
    codes.iter().map(|code| code.as_str()).collect::<Vec<_>>().join(",")
}

macro_rules! codes {
    ($($variant:ident $name:literal $level:ident $meaning:literal,)*) => {
        /// A stable code. New codes are added; the name and meaning of a code never change.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[non_exhaustive]
        pub enum Code {
            $(#[doc = $meaning] $variant,)*
        }

        impl Code {
            /// Every code, sorted by name.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The name of the code, such as `IN_USE_BY_VM`.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// Whether the code stops a verb that changes something.
            pub fn level(self) -> Level {
                match self { $(Self::$variant => Level::$level,)* }
            }

            /// What the code means, in one or two sentences.
            pub fn meaning(self) -> &'static str {
                match self { $(Self::$variant => $meaning,)* }
            }
        }
    };
}

codes! {
    AcsOverride "ACS_OVERRIDE" Note
        "The kernel command line changes ACS, so IOMMU groups may promise an isolation that the hardware does not have.",
    BadKind "BAD_KIND" Forceable
        "The device is an optical drive, a floppy drive, a firmware area or a RAM disk, not an ordinary disk.",
    Claimed "CLAIMED" Refuse
        "The disk or one of its partitions is open exclusively, for example by a mount, swap or another block device.",
    CollateralExpired "COLLATERAL_EXPIRED" Refuse
        "A certificate, a revocation list or a statement of Intel about the platform is not valid at the time of the verification.",
    ConsoleGpu "CONSOLE_GPU" Forceable
        "The GPU shows the host's console, or a monitor is connected to it.",
    DuplicateId "DUPLICATE_ID" Note
        "Another disk has the same serial number, so a name made from that number may refer to either disk.",
    EventDiffers "EVENT_DIFFERS" Refuse
        "An event of the log, or the value of a register, is not the expected one, or the data of an event contradicts its digest.",
    Exported "EXPORTED" Refuse
        "The host exports the disk as an iSCSI or NVMe target, or a loop device uses the disk.",
    GuestRefused "GUEST_REFUSED" Refuse
        "The guest was asked to release the device and refused.",
    HasData "HAS_DATA" Note
        "The disk contains a file system, an encrypted volume, swap space or a partition table, and nothing uses it.",
    Holders "HOLDERS" Refuse
        "A logical volume, a mapping, an array or a cache on the host uses the disk.",
    HostDiskMounted "HOST_DISK_MOUNTED" Refuse
        "The host uses a disk of this PCI device: the disk is mounted, open exclusively, or part of a volume, a mapping or an array.",
    HostDiskRoot "HOST_DISK_ROOT" Refuse
        "A disk of this PCI device holds the host's root, boot or other system file system, or its swap space.",
    HostDriver "HOST_DRIVER" Refuse
        "A driver of the host is bound to another device of the IOMMU group, and the request does not name that device.",
    HostNetDefaultRoute "HOST_NET_DEFAULT_ROUTE" Forceable
        "The host's default route uses this network card.",
    Identity "IDENTITY" Note
        "The disk has no persistent name in `/dev/disk/by-id`.",
    IdentityChanged "IDENTITY_CHANGED" Refuse
        "The device, disk, domain, pool or host is not the one that was recorded, or that the item on standard input describes.",
    InUseByVm "IN_USE_BY_VM" Refuse
        "A guest uses the device, disk or kernel module: a domain's definition names it, or a process such as QEMU has it open.",
    IsPartition "IS_PARTITION" Forceable
        "The device is a partition, not a whole disk.",
    LogIncomplete "LOG_INCOMPLETE" Refuse
        "The event log ends within an event, or a register computed from it differs from the quote: events are missing from the log or were changed.",
    MdevChildren "MDEV_CHILDREN" Refuse
        "Mediated devices exist on the PCI device.",
    Mounted "MOUNTED" Refuse
        "A file system on the disk is mounted, in the host's mount namespace or in another one.",
    MrtdPageOrder "MRTD_PAGE_ORDER" Refuse
        "MRTD is not the expected value, and is the value of the expected firmware in the other page order. Run `tdx-attest measure` with that `--page-order`.",
    MultipathPath "MULTIPATH_PATH" Refuse
        "The disk is one path of a multipath map. Give the multipath map to the guest instead.",
    NoiommuMode "NOIOMMU_MODE" Refuse
        "The IOMMU group is a vfio-noiommu group: no IOMMU isolates the device.",
    Nonendpoint "NONENDPOINT" Refuse
        "The device is a PCI bridge. Bridges cannot be given to a guest.",
    NotAttested "NOT_ATTESTED" Refuse
        "The guest's launch measurement does not match the expected firmware, policy and keys.",
    NotBlock "NOT_BLOCK" Refuse
        "The path names something other than a block device.",
    NoGroup "NO_GROUP" Refuse
        "The device is in no IOMMU group, although this host has IOMMU groups.",
    NoIommu "NO_IOMMU" Refuse
        "This host has no IOMMU groups.",
    NoMedium "NO_MEDIUM" Refuse
        "The drive holds no medium, or its size is 0.",
    NoReset "NO_RESET" Note
        "The device cannot be reset, so a guest finds the state that the previous user left in the device. `tdx-td new` refuses the device for a protected guest.",
    Offline "OFFLINE" Refuse
        "The driver reports that the disk is not running.",
    OpenFds "OPEN_FDS" Forceable
        "A process has a node of the device in `/dev` open.",
    PfHasVfs "PF_HAS_VFS" Refuse
        "The device has SR-IOV virtual functions. Remove the virtual functions first.",
    QemuLock "QEMU_LOCK" Refuse
        "A QEMU process holds a lock on the disk.",
    QuoteSignature "QUOTE_SIGNATURE" Refuse
        "The signature of the quote is wrong, or no valid certificate chain connects Intel's root certificate with the key that signed the quote.",
    ReadOnly "READ_ONLY" Refuse
        "The disk is read-only, and `--readonly` was not given.",
    Reserved "RESERVED" Refuse
        "Another command is working on the device, a killed command left its work unfinished, or the device was bound to VFIO for another domain.",
    Rtmr3Unlogged "RTMR3_UNLOGGED" Note
        "RTMR3 computed from the event log differs from the quote. Programs of the guest can extend RTMR3 without an entry in the log.",
    SensitiveClass "SENSITIVE_CLASS" Forceable
        "The device is a host, ISA or PCI bridge, a memory controller or an SMBus, or the host uses a disk, a network interface or a USB device behind this device.",
    Signature "SIGNATURE" Forceable
        "The disk carries the signature of a volume group, an array, a pool, a cache or a hibernation image, which some system may activate.",
    StillAttached "STILL_ATTACHED" Refuse
        "The guest was asked to release the device and has not released it yet.",
    Swap "SWAP" Refuse
        "The host uses the disk as swap space.",
    SystemDisk "SYSTEM_DISK" Refuse
        "The host runs from the disk: a system file system, the boot partition or the hibernation image is on it.",
    TcbOutOfDate "TCB_OUT_OF_DATE" Refuse
        "The firmware, the TDX module or the quoting enclave of the quote's platform is older than the policy accepts.",
    TdDebug "TD_DEBUG" Refuse
        "The trust domain is in debug or profiling mode, so the host can read its memory or observe how it runs.",
    UnlistedMember "UNLISTED_MEMBER" Note
        "The IOMMU group contains another device, which the request does not name. The host cannot use that device while a guest has the group.",
}

impl Code {
    /// Parses the value of `--force`.
    ///
    /// Errors: for an unknown code, and for a code whose level is [`Level::Refuse`].
    pub fn to_force(text: &str) -> Result<Self, String> {
        match Self::ALL.iter().find(|code| code.as_str() == text) {
            None => Err("unknown code; tdx-iommu check and tdx-disk check print codes".to_owned()),
            Some(code) if code.level() == Level::Refuse => {
                Err("this code cannot be forced".to_owned())
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
        known.copied().ok_or_else(|| serde::de::Error::custom(format!("unknown code {name:?}")))
    }
}

/// The JSON schema of a code of any list: a string and not an enumeration, because codes are added.
pub fn schema() -> schemars::Schema {
    schemars::json_schema!({
        "type": "string",
        "pattern": "^[A-Z][A-Z0-9_]*$",
        "description": "A stable code, see docs/reference/codes.md. Codes are added, never renamed."
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

/// The first part of the page `docs/reference/codes.md`: the codes of devices, disks and guests.
pub fn page() -> String {
    let mut text = "# Codes\n\n\
        A code names the reason why a tool refuses or reports something. Scripts may rely on the codes: new codes are\n\
        added, and the name and meaning of a code never change.\n\n\
        ## Devices, disks and guests\n\n\
        These codes stand in `blockers` of devices and groups, in `code` of the findings of `check`, and in\n\
        `error.code` of a refused command. In `code` of `tdx-attest verify` and `codes` of `tdx-attest replay`, the level\n\
        refuse means a failed check and exit status 10; a policy can accept TCB_OUT_OF_DATE and TD_DEBUG. The level decides whether a command that changes something\n\
        refuses:\n\n\
        | level | the command |\n|---|---|\n\
        | refuse | refuses; no option overrides that |\n\
        | forceable | refuses unless `--force CODE` is given |\n\
        | note | goes on; the code is not listed in `blockers` |\n\n\
        | code | level | meaning |\n|---|---|---|\n"
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
    fn codes_are_upper_snake_case_unique_and_sorted() {
        let names: Vec<&str> = Code::ALL.iter().map(|code| code.as_str()).collect();
        for name in &names {
            assert!(name.bytes().all(|b| matches!(b, b'A'..=b'Z' | b'0'..=b'9' | b'_')), "{name}");
        }
        assert!(names.is_sorted_by(|a, b| a < b), "{names:?}");
    }
}
