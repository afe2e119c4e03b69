//! How a guest is protected from its host.

use std::path::Path;

use clap::Args;
use common::xml::Element;
use common::{Error, Result};

use crate::capability::Security;

pub mod blob;
pub mod sev;
pub mod tdx;

use sev::{Sev, SevArgs};
use tdx::{Tdx, TdxArgs};

/// For flags that turn something on or off.
fn on_off(text: &str) -> Result<bool, String> {
    match text {
        "on" => Ok(true),
        "off" => Ok(false),
        _ => Err("on or off".to_owned()),
    }
}

/// The flags of every kind of launch security.
#[derive(Debug, Clone, Default, Args)]
pub struct LaunchArgs {
    /// Those of Intel TDX.
    #[command(flatten)]
    pub tdx: TdxArgs,
    /// Those of AMD SEV.
    #[command(flatten)]
    pub sev: SevArgs,
}

impl LaunchArgs {
    /// Whether any of them was given.
    pub fn any(&self) -> bool {
        self.tdx.any() || self.sev.any()
    }
}

/// How the guest is protected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Launch {
    /// Not at all: an ordinary guest.
    None,
    /// As a trust domain.
    Tdx(Tdx),
    /// By AMD SEV, of any generation.
    Sev(Sev),
}

impl Launch {
    /// Settles the flags.
    ///
    /// Errors: `usage` for flags of another kind, `invalid_input` for values that are none.
    pub fn new(security: Security, args: &LaunchArgs) -> Result<Self> {
        if args.tdx.any() && security != Security::Tdx {
            return Err(Error::usage("the flags of a trust domain need --security tdx"));
        }
        if args.sev.any() && !security.is_sev() {
            return Err(Error::usage(
                "the flags of AMD SEV need --security sev, sev-es or sev-snp",
            ));
        }
        match security {
            Security::None => Ok(Self::None),
            Security::Tdx => Tdx::new(&args.tdx).map(Self::Tdx),
            Security::Sev | Security::SevEs | Security::SevSnp => {
                Sev::new(security, &args.sev).map(Self::Sev)
            }
        }
    }

    /// What kind it is.
    pub fn security(&self) -> Security {
        match self {
            Self::None => Security::None,
            Self::Tdx(_) => Security::Tdx,
            Self::Sev(sev) => sev.security(),
        }
    }

    /// Whether the guest is protected.
    pub fn is_secure(&self) -> bool {
        *self != Self::None
    }

    /// The `<launchSecurity>` element.
    pub fn to_element(&self) -> Option<Element> {
        match self {
            Self::None => None,
            Self::Tdx(tdx) => Some(tdx.to_element()),
            Self::Sev(sev) => Some(sev.to_element()),
        }
    }

    /// What the user should know. `exists` tells whether a path is there, on libvirt's host.
    pub fn warnings(&self, exists: impl Fn(&Path) -> bool) -> Vec<String> {
        match self {
            Self::None => Vec::new(),
            Self::Tdx(tdx) => tdx.warnings(exists),
            Self::Sev(sev) => sev.warnings(),
        }
    }

    /// The settings in the form a later `new` of the same name compares.
    pub fn request(&self) -> Vec<(String, String)> {
        match self {
            Self::None => Vec::new(),
            Self::Tdx(tdx) => tdx.request(),
            Self::Sev(sev) => sev.request(),
        }
    }

    /// What such guests are called. Users' scripts match on the names of the original script.
    pub fn stem(&self) -> &'static str {
        match self {
            Self::None => "regular_vm",
            Self::Tdx(_) => "trust_domain",
            Self::Sev(_) => "sev_guest",
        }
    }
}
