//! The kinds of protection of a guest from its host.

use std::fmt;
use std::str::FromStr;

use clap::ValueEnum;
use common::Result;
use serde::{Deserialize, Serialize};

/// A kind of protection of a guest from its host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Security {
    /// Intel TDX: a trust domain
    Tdx,
    /// AMD SEV: encrypted memory
    Sev,
    /// AMD SEV-ES: encrypted memory and registers
    SevEs,
    /// AMD SEV-SNP: encrypted memory and registers, with memory integrity
    SevSnp,
    /// No protection: an ordinary guest
    None,
}

impl Security {
    /// Whether the protection is AMD SEV of any generation.
    pub fn is_sev(self) -> bool {
        matches!(self, Self::Sev | Self::SevEs | Self::SevSnp)
    }

    /// Returns the name of the kind, as on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tdx => "tdx",
            Self::Sev => "sev",
            Self::SevEs => "sev-es",
            Self::SevSnp => "sev-snp",
            Self::None => "none",
        }
    }
}

impl fmt::Display for Security {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Security {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        <Self as ValueEnum>::from_str(text, false)
    }
}
