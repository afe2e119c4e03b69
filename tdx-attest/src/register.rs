//! The measurement registers of a trust domain, and their values.

use std::fmt::{self, Display, Formatter};

use common::td_quote::TdReport;
use common::text;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A register of a trust domain that a quote contains.
///
/// Source: Intel TDX Module Base specification, "TD Measurement and Attestation"; Intel TDX DCAP Quoting Library API,
/// "TD Quote Body".
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Register {
    /// The measurement of the initial memory: of the firmware.
    Mrtd,
    /// The firmware's configuration: TD HOB, variables, ACPI tables, boot order.
    Rtmr0,
    /// The boot loader and the kernel.
    Rtmr1,
    /// The kernel's command line and the initial RAM disk.
    Rtmr2,
    /// Whatever the guest's own programs measure.
    Rtmr3,
    /// The identity of the configuration, which the host sets.
    MrConfigId,
    /// The identity of the owner, which the host sets.
    MrOwner,
    /// The identity of the owner's configuration, which the host sets.
    MrOwnerConfig,
    /// The attributes of the trust domain, such as DEBUG.
    Attributes,
}

impl Register {
    /// Every register, in the order of documents.
    pub const ALL: [Self; 9] = [
        Self::Mrtd,
        Self::Rtmr0,
        Self::Rtmr1,
        Self::Rtmr2,
        Self::Rtmr3,
        Self::MrConfigId,
        Self::MrOwner,
        Self::MrOwnerConfig,
        Self::Attributes,
    ];

    /// The name of the register in documents, such as `rtmr0`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Mrtd => "mrtd",
            Self::Rtmr0 => "rtmr0",
            Self::Rtmr1 => "rtmr1",
            Self::Rtmr2 => "rtmr2",
            Self::Rtmr3 => "rtmr3",
            Self::MrConfigId => "mrconfigid",
            Self::MrOwner => "mrowner",
            Self::MrOwnerConfig => "mrownerconfig",
            Self::Attributes => "attributes",
        }
    }

    /// The size of the register. Unit: bytes.
    pub const fn size(self) -> usize {
        match self {
            Self::Attributes => 8,
            _ => 48,
        }
    }

    /// The value of the register in the report of a quote.
    pub fn value_in<'a>(self, report: &TdReport<'a>) -> &'a [u8] {
        match self {
            Self::Mrtd => report.mrtd,
            Self::Rtmr0 => report.rtmrs[0],
            Self::Rtmr1 => report.rtmrs[1],
            Self::Rtmr2 => report.rtmrs[2],
            Self::Rtmr3 => report.rtmrs[3],
            Self::MrConfigId => report.mrconfigid,
            Self::MrOwner => report.mrowner,
            Self::MrOwnerConfig => report.mrownerconfig,
            Self::Attributes => report.attributes,
        }
    }

    /// Whether the register is one of RTMR0 to RTMR3, which events extend.
    pub const fn is_rtmr(self) -> bool {
        matches!(self, Self::Rtmr0 | Self::Rtmr1 | Self::Rtmr2 | Self::Rtmr3)
    }

    /// The runtime measurement register (RTMR) with this number; none for a number above 3.
    pub const fn rtmr(number: u32) -> Option<Self> {
        match number {
            0 => Some(Self::Rtmr0),
            1 => Some(Self::Rtmr1),
            2 => Some(Self::Rtmr2),
            3 => Some(Self::Rtmr3),
            _ => None,
        }
    }
}

impl Display for Register {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A SHA-384 digest: the value of a register, or the digest of an event.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Digest(pub [u8; 48]);

impl Digest {
    /// The value of a register that nothing has been measured into.
    pub const ZERO: Self = Self([0; 48]);
}

impl Digest {
    /// The digest that 96 hexadecimal digits stand for; none for other text.
    pub fn from_hex(digits: &str) -> Option<Self> {
        text::from_hex(digits)?.try_into().ok().map(Self)
    }
}

impl Display for Digest {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(&text::hex(self.0))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        Display::fmt(self, f)
    }
}
