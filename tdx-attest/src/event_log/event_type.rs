//! The types of events.

use std::fmt::{self, Display, Formatter};

/// The type of an event: what its data is.
///
/// Source: TCG PC Client Platform Firmware Profile, "Event Types".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EventType(pub u32);

macro_rules! types {
    ($($constant:ident $value:literal,)*) => {
        impl EventType {
            $(pub(crate) const $constant: Self = Self($value);)*

            /// The name of the type in the specification; none for a type that the specification does not name.
            pub fn name(self) -> Option<&'static str> {
                match self {
                    $(Self::$constant => Some(concat!("EV_", stringify!($constant))),)*
                    _ => None,
                }
            }
        }
    };
}

types! {
    PREBOOT_CERT 0x0,
    POST_CODE 0x1,
    NO_ACTION 0x3,
    SEPARATOR 0x4,
    ACTION 0x5,
    EVENT_TAG 0x6,
    S_CRTM_CONTENTS 0x7,
    S_CRTM_VERSION 0x8,
    CPU_MICROCODE 0x9,
    PLATFORM_CONFIG_FLAGS 0xa,
    TABLE_OF_DEVICES 0xb,
    COMPACT_HASH 0xc,
    IPL 0xd,
    IPL_PARTITION_DATA 0xe,
    NONHOST_CODE 0xf,
    NONHOST_CONFIG 0x10,
    NONHOST_INFO 0x11,
    OMIT_BOOT_DEVICE_EVENTS 0x12,
    EFI_VARIABLE_DRIVER_CONFIG 0x8000_0001,
    EFI_VARIABLE_BOOT 0x8000_0002,
    EFI_BOOT_SERVICES_APPLICATION 0x8000_0003,
    EFI_BOOT_SERVICES_DRIVER 0x8000_0004,
    EFI_RUNTIME_SERVICES_DRIVER 0x8000_0005,
    EFI_GPT_EVENT 0x8000_0006,
    EFI_ACTION 0x8000_0007,
    EFI_PLATFORM_FIRMWARE_BLOB 0x8000_0008,
    EFI_HANDOFF_TABLES 0x8000_0009,
    EFI_PLATFORM_FIRMWARE_BLOB2 0x8000_000a,
    EFI_HANDOFF_TABLES2 0x8000_000b,
    EFI_VARIABLE_BOOT2 0x8000_000c,
    EFI_HCRTM_EVENT 0x8000_0010,
    EFI_VARIABLE_AUTHORITY 0x8000_00e0,
    EFI_SPDM_FIRMWARE_BLOB 0x8000_00e1,
    EFI_SPDM_FIRMWARE_CONFIG 0x8000_00e2,
}

impl EventType {
    /// Whether the data of the event is a UEFI variable.
    pub fn has_variable(self) -> bool {
        matches!(
            self,
            Self::EFI_VARIABLE_DRIVER_CONFIG
                | Self::EFI_VARIABLE_BOOT
                | Self::EFI_VARIABLE_BOOT2
                | Self::EFI_VARIABLE_AUTHORITY
        )
    }
}

impl Display for EventType {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.pad(name),
            None => write!(f, "{:#010x}", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_shown_by_name_or_as_a_number() {
        assert_eq!(EventType(4).to_string(), "EV_SEPARATOR");
        assert_eq!(EventType(0x8000_00e0).to_string(), "EV_EFI_VARIABLE_AUTHORITY");
        assert_eq!(EventType(0x0800_0001).to_string(), "0x08000001");
    }
}
