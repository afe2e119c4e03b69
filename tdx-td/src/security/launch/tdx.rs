//! Intel TDX launch security: the policy, measured values and quote service of a trust domain.
//!
//! Source: <https://libvirt.org/formatdomain.html#launch-security>; Intel TDX Module Base Architecture
//! Specification, TD_PARAMS.

use std::path::{Path, PathBuf};

use common::Result;
use common::xml::Element;

use crate::security::launch::fixed_bytes::FixedBytes;

/// Bit 0 of the attributes: the host may debug the trust domain.
pub(crate) const DEBUG: u64 = 1;
/// Bit 28 of the attributes: no #VE exceptions for unmapped pages. Linux guests refuse to boot without it.
/// Source: Linux `Documentation/arch/x86/tdx.rst`.
pub(crate) const SEPT_VE_DISABLE: u64 = 1 << 28;

/// The options of a trust domain, as the user gives them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TdxOptions {
    /// Whether the host may debug the trust domain, and so read its memory.
    pub td_debug: bool,
    /// Whether #VE exceptions for unmapped pages are disabled; `None` for the default, on.
    pub sept_ve_disable: Option<bool>,
    /// MRCONFIGID, 48 bytes.
    pub mr_config_id: Option<String>,
    /// MROWNER, 48 bytes.
    pub mr_owner: Option<String>,
    /// MROWNERCONFIG, 48 bytes.
    pub mr_owner_config: Option<String>,
    /// Quote generation service; `None` for libvirt's default socket.
    pub qgs: Option<Qgs>,
}

/// The quote generation service of a trust domain.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Qgs {
    /// The service at libvirt's default socket.
    #[default]
    Default,
    /// The service at this unix socket.
    Socket(PathBuf),
    /// No service: the guest cannot be attested.
    None,
}

/// libvirt's default socket of the quote generation service.
pub const QGS_SOCKET: &str = "/var/run/tdx-qgs/qgs.socket";

impl TdxOptions {
    /// Whether any option was given.
    pub fn any(&self) -> bool {
        let values = [&self.mr_config_id, &self.mr_owner, &self.mr_owner_config];
        self.td_debug
            || self.sept_ve_disable.is_some()
            || self.qgs.is_some()
            || values.iter().any(|value| value.is_some())
    }
}

/// A value that is part of a trust domain's measurement, usually a SHA-384 hash.
type Measured = FixedBytes<48>;

/// The launch security of a trust domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tdx {
    policy: u64,
    mr_config_id: Option<Measured>,
    mr_owner: Option<Measured>,
    mr_owner_config: Option<Measured>,
    qgs: Qgs,
}

impl Tdx {
    /// Checks the options and returns the launch security.
    ///
    /// Errors: those of [`FixedBytes::read`].
    pub fn new(options: &TdxOptions) -> Result<Self> {
        let read = |flag: &str, value: &Option<String>| {
            value.as_ref().map(|text| Measured::read(flag, text)).transpose()
        };
        let sept_ve_disable = options.sept_ve_disable.unwrap_or(true);
        Ok(Self {
            policy: u64::from(options.td_debug) * DEBUG
                + u64::from(sept_ve_disable) * SEPT_VE_DISABLE,
            mr_config_id: read("--mr-config-id", &options.mr_config_id)?,
            mr_owner: read("--mr-owner", &options.mr_owner)?,
            mr_owner_config: read("--mr-owner-config", &options.mr_owner_config)?,
            qgs: options.qgs.clone().unwrap_or_default(),
        })
    }

    /// Returns the `<launchSecurity>` element.
    pub fn to_element(&self) -> Element {
        let measured = [
            ("mrConfigId", &self.mr_config_id),
            ("mrOwner", &self.mr_owner),
            ("mrOwnerConfig", &self.mr_owner_config),
        ];
        let measured = measured
            .into_iter()
            .filter_map(|(name, value)| value.as_ref().map(|value| Element::new(name).text(value)));
        let service = Element::new("quoteGenerationService");
        let service = match &self.qgs {
            Qgs::None => None,
            Qgs::Default => Some(service),
            Qgs::Socket(path) => Some(service.attr("path", path.display())),
        };
        Element::new("launchSecurity")
            .attr("type", "tdx")
            .child(Element::new("policy").text(format_args!("{:#x}", self.policy)))
            .children(measured)
            .child_opt(service)
    }

    /// Returns warnings: about a domain that its host can read, and about a missing socket.
    ///
    /// `exists` returns whether a path exists on libvirt's host.
    pub fn warnings(&self, exists: impl Fn(&Path) -> bool) -> Vec<String> {
        let mut warnings = Vec::new();
        if self.policy & DEBUG != 0 {
            warnings.push("--td-debug allows the host to read the guest's memory".to_owned());
        }
        if self.policy & SEPT_VE_DISABLE == 0 {
            warnings.push("Linux guests refuse to boot with --sept-ve-disable off".to_owned());
        }
        warnings.extend(match &self.qgs {
            Qgs::None => None,
            Qgs::Default => no_service(Path::new(QGS_SOCKET), exists),
            Qgs::Socket(path) => no_service(path, exists),
        });
        warnings
    }

    /// Returns the request in the form that a later `new` of the same name compares.
    pub fn request(&self) -> Vec<(String, String)> {
        let shown = |value: &Option<Measured>| {
            value.as_ref().map_or_else(|| "none".to_owned(), ToString::to_string)
        };
        let qgs = match &self.qgs {
            Qgs::None => "none".to_owned(),
            Qgs::Default => "default".to_owned(),
            Qgs::Socket(path) => path.display().to_string(),
        };
        [
            ("td_policy", format!("{:#x}", self.policy)),
            ("mr_config_id", shown(&self.mr_config_id)),
            ("mr_owner", shown(&self.mr_owner)),
            ("mr_owner_config", shown(&self.mr_owner_config)),
            ("qgs", qgs),
        ]
        .map(|(key, value)| (key.to_owned(), value))
        .into()
    }
}

/// Returns a warning if the socket of the quote generation service does not exist.
pub fn no_service(socket: &Path, exists: impl Fn(&Path) -> bool) -> Option<String> {
    (!exists(socket)).then(|| {
        let socket = socket.display();
        format!("no quote generation service at {socket}: the trust domain cannot be attested")
    })
}

#[cfg(test)]
mod tests {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD as BASE64;

    use super::*;

    #[test]
    fn defaults_are_those_that_linux_guests_need() {
        let tdx = Tdx::new(&TdxOptions::default()).unwrap();
        assert_eq!(
            tdx.to_element().to_xml().unwrap(),
            "<launchSecurity type='tdx'>\n  <policy>0x10000000</policy>\n  \
             <quoteGenerationService/>\n</launchSecurity>"
        );
        assert_eq!(tdx.warnings(|_| true), Vec::<String>::new());
        assert!(tdx.warnings(|_| false)[0].contains(QGS_SOCKET));
    }

    #[test]
    fn to_element_has_every_option() {
        let options = TdxOptions {
            td_debug: true,
            sept_ve_disable: Some(false),
            mr_config_id: Some("00".repeat(48)),
            mr_owner: Some(BASE64.encode([0xff; 48])),
            mr_owner_config: None,
            qgs: Some(Qgs::Socket("/run/q & a.sock".into())),
        };
        let tdx = Tdx::new(&options).unwrap();
        let zeros = "A".repeat(64);
        let ones = "/".repeat(64);
        assert_eq!(
            tdx.to_element().to_xml().unwrap(),
            format!(
                "<launchSecurity type='tdx'>\n  <policy>0x1</policy>\n  \
                 <mrConfigId>{zeros}</mrConfigId>\n  <mrOwner>{ones}</mrOwner>\n  \
                 <quoteGenerationService path='/run/q &amp; a.sock'/>\n</launchSecurity>"
            )
        );
        assert_eq!(tdx.warnings(|_| true).len(), 2);
        let none = TdxOptions { qgs: Some(Qgs::None), ..TdxOptions::default() };
        assert!(!Tdx::new(&none).unwrap().to_element().to_xml().unwrap().contains("quote"));
    }
}
