//! The launch security of a new guest, of all kinds.

use std::path::Path;

use common::xml::Element;
use common::{Error, Result};

use crate::capability::Security;
use crate::security::launch::sev::{Sev, SevOptions};
use crate::security::launch::tdx::{Tdx, TdxOptions};

/// The options of all kinds of launch security.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LaunchOptions {
    /// The options of Intel TDX.
    pub tdx: TdxOptions,
    /// The options of AMD SEV.
    pub sev: SevOptions,
}

impl LaunchOptions {
    /// Whether any option was given.
    pub fn any(&self) -> bool {
        self.tdx.any() || self.sev.any()
    }
}

/// The launch security of a guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Launch {
    /// No launch security: an ordinary guest.
    None,
    /// Intel TDX: a trust domain.
    Tdx(Tdx),
    /// AMD SEV, of any generation.
    Sev(Sev),
}

impl Launch {
    /// Checks the options and returns the launch security.
    ///
    /// Errors: `usage` for options of another kind, `invalid_input` for invalid values.
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

    /// Returns the kind of launch security.
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

    /// Returns the `<launchSecurity>` element.
    pub fn to_element(&self) -> Option<Element> {
        match self {
            Self::None => None,
            Self::Tdx(tdx) => Some(tdx.to_element()),
            Self::Sev(sev) => Some(sev.to_element()),
        }
    }

    /// Returns warnings for the user. `exists` returns whether a path exists on libvirt's host.
    pub fn warnings(&self, exists: impl Fn(&Path) -> bool) -> Vec<String> {
        match self {
            Self::None => Vec::new(),
            Self::Tdx(tdx) => tdx.warnings(exists),
            Self::Sev(sev) => sev.warnings(),
        }
    }

    /// Returns the request in the form that a later `new` of the same name compares.
    pub fn request(&self) -> Vec<(String, String)> {
        match self {
            Self::None => Vec::new(),
            Self::Tdx(tdx) => tdx.request(),
            Self::Sev(sev) => sev.request(),
        }
    }

    /// Returns the KIND in the default name of the domain. The original script uses the same, and users' scripts
    /// match it.
    pub fn stem(&self) -> &'static str {
        match self {
            Self::None => "regular_vm",
            Self::Tdx(_) => "trust_domain",
            Self::Sev(_) => "sev_guest",
        }
    }
}
