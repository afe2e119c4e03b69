//! TDX launch security: what a trust domain is launched with, and measured by.
//!
//! Source: <https://libvirt.org/formatdomain.html#launch-security>; Intel TDX Module Base Architecture
//! Specification, TD_PARAMS.

use std::path::{Path, PathBuf};

use common::Result;
use common::xml::Element;

use crate::security::launch::fixed_bytes::Blob;

/// Bit 0 of the attributes: the host may look into the domain.
pub(crate) const DEBUG: u64 = 1;
/// Bit 28: no #VE for pages that are not there; guest kernels refuse to boot without it.
/// Source: Linux `Documentation/arch/x86/tdx.rst`.
pub(crate) const SEPT_VE_DISABLE: u64 = 1 << 28;

/// What a trust domain is to be launched with, as its user asks for it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TdxOptions {
    /// Let the host debug the domain: its memory is then no secret
    pub td_debug: bool,
    /// Whether the guest is spared #VE on pages that are not there; Linux needs it [default: on]
    pub sept_ve_disable: Option<bool>,
    /// MRCONFIGID: 48 bytes in hex or base64, or a file of them
    pub mr_config_id: Option<String>,
    /// MROWNER: 48 bytes in hex or base64, or a file of them
    pub mr_owner: Option<String>,
    /// MROWNERCONFIG: 48 bytes in hex or base64, or a file of them
    pub mr_owner_config: Option<String>,
    /// The quote generation service's unix socket, or none [default: libvirt's own]
    pub qgs: Option<Qgs>,
}

/// Where quotes come from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Qgs {
    /// libvirt's default socket.
    #[default]
    Default,
    /// This unix socket.
    Socket(PathBuf),
    /// Nowhere: the guest cannot be attested.
    None,
}

/// libvirt's default socket.
pub const QGS_SOCKET: &str = "/var/run/tdx-qgs/qgs.socket";

impl TdxOptions {
    /// Whether any of them was given.
    pub fn any(&self) -> bool {
        let values = [&self.mr_config_id, &self.mr_owner, &self.mr_owner_config];
        self.td_debug
            || self.sept_ve_disable.is_some()
            || self.qgs.is_some()
            || values.iter().any(|value| value.is_some())
    }
}

/// Bytes that are measured with a trust domain: a SHA-384, usually.
type Measured = Blob<48>;

/// What a trust domain is launched with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tdx {
    policy: u64,
    mr_config_id: Option<Measured>,
    mr_owner: Option<Measured>,
    mr_owner_config: Option<Measured>,
    qgs: Qgs,
}

impl Tdx {
    /// Settles the flags.
    ///
    /// Errors: those of [`Blob::read`].
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

    /// The `<launchSecurity>` element.
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

    /// What the user should know: a domain open to its host, a socket that is not there.
    ///
    /// `exists` tells whether a path is there, on libvirt's host.
    pub fn warnings(&self, exists: impl Fn(&Path) -> bool) -> Vec<String> {
        let mut warnings = Vec::new();
        if self.policy & DEBUG != 0 {
            warnings.push("--td-debug: the host can read this domain's memory".to_owned());
        }
        if self.policy & SEPT_VE_DISABLE == 0 {
            warnings.push("--sept-ve-disable off: Linux guests refuse to boot".to_owned());
        }
        warnings.extend(match &self.qgs {
            Qgs::None => None,
            Qgs::Default => no_service(Path::new(QGS_SOCKET), exists),
            Qgs::Socket(path) => no_service(path, exists),
        });
        warnings
    }

    /// The settings in the form a later `new` of the same name compares.
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

/// A warning when there is no socket for quotes.
pub fn no_service(socket: &Path, exists: impl Fn(&Path) -> bool) -> Option<String> {
    (!exists(socket)).then(|| {
        let socket = socket.display();
        format!("no quote generation service at {socket}: the domain cannot be attested")
    })
}

#[cfg(test)]
mod tests {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD as BASE64;

    use super::*;

    #[test]
    fn defaults_are_those_a_linux_guest_needs() {
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
    fn every_flag_has_its_place() {
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
