//! The launch security of a new guest, of any kind.

use std::path::Path;

use common::xml::Element;
use common::{Error, Result};

use crate::capability::Security;
use crate::security::launch::sev::{Sev, SevOptions};
use crate::security::launch::tdx::{Tdx, TdxOptions};

/// What every kind of launch security is asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LaunchOptions {
    /// Of Intel TDX.
    pub tdx: TdxOptions,
    /// Of AMD SEV.
    pub sev: SevOptions,
}

impl LaunchOptions {
    /// Whether any of them was asked for.
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
    pub fn new(security: Security, options: &LaunchOptions) -> Result<Self> {
        if options.tdx.any() && security != Security::Tdx {
            return Err(Error::usage("the flags of a trust domain need --security tdx"));
        }
        if options.sev.any() && !security.is_sev() {
            return Err(Error::usage(
                "the flags of AMD SEV need --security sev, sev-es or sev-snp",
            ));
        }
        match security {
            Security::None => Ok(Self::None),
            Security::Tdx => Tdx::new(&options.tdx).map(Self::Tdx),
            Security::Sev | Security::SevEs | Security::SevSnp => {
                Sev::new(security, &options.sev).map(Self::Sev)
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
