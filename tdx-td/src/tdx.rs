//! TDX launch security: what a trust domain is launched with, and measured by.
//!
//! Source: <https://libvirt.org/formatdomain.html#launch-security>; Intel TDX Module Base Architecture
//! Specification, TD_PARAMS.

use std::fmt;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use clap::Args;
use common::xml::Element;
use common::{Error, IoContext, Result};

/// Bit 0 of the attributes: the host may look into the domain.
const DEBUG: u64 = 1;
/// Bit 28: no #VE for pages that are not there; guest kernels refuse to boot without it.
/// Source: Linux `Documentation/arch/x86/tdx.rst`.
const SEPT_VE_DISABLE: u64 = 1 << 28;

/// The flags of a trust domain.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Trust domain")]
pub struct TdxArgs {
    /// Let the host debug the domain: its memory is then no secret
    #[arg(long)]
    pub td_debug: bool,
    /// Whether the guest is spared #VE on pages that are not there; Linux needs it [default: on]
    #[arg(long, value_name = "on|off", value_parser = on_off)]
    pub sept_ve_disable: Option<bool>,
    /// MRCONFIGID: 48 bytes in hex or base64, or a file of them
    #[arg(long, value_name = "VALUE|FILE")]
    pub mr_config_id: Option<String>,
    /// MROWNER: 48 bytes in hex or base64, or a file of them
    #[arg(long, value_name = "VALUE|FILE")]
    pub mr_owner: Option<String>,
    /// MROWNERCONFIG: 48 bytes in hex or base64, or a file of them
    #[arg(long, value_name = "VALUE|FILE")]
    pub mr_owner_config: Option<String>,
    /// The quote generation service's unix socket, or none [default: libvirt's own]
    #[arg(long, value_name = "PATH|none", value_parser = qgs)]
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

fn on_off(text: &str) -> Result<bool, String> {
    match text {
        "on" => Ok(true),
        "off" => Ok(false),
        _ => Err("on or off".to_owned()),
    }
}

fn qgs(text: &str) -> Result<Qgs, String> {
    match text {
        "none" => Ok(Qgs::None),
        path if Path::new(path).is_absolute() => Ok(Qgs::Socket(path.into())),
        _ => Err("an absolute path, or none".to_owned()),
    }
}

impl TdxArgs {
    /// Whether any of them was given.
    pub fn any(&self) -> bool {
        let values = [&self.mr_config_id, &self.mr_owner, &self.mr_owner_config];
        self.td_debug
            || self.sept_ve_disable.is_some()
            || self.qgs.is_some()
            || values.iter().any(|value| value.is_some())
    }
}

/// 48 bytes that are measured with a trust domain: a SHA-384, usually.
#[derive(Clone, PartialEq, Eq)]
pub struct Measurement([u8; 48]);

impl Measurement {
    /// Reads 96 hexadecimal digits, 64 characters of base64, or a file of either or of the bytes.
    ///
    /// Errors: `invalid_input` for anything else, naming the length that came.
    pub fn read(flag: &str, text: &str) -> Result<Self> {
        let path = Path::new(text);
        if !path.is_file() {
            let bytes = decode(text).ok_or_else(|| {
                Error::invalid_input(format!(
                    "{flag} is neither 48 bytes in hex or base64 nor a file: {text:?}"
                ))
            })?;
            return Self::checked(flag, bytes);
        }
        let bytes = std::fs::read(path).at("read", path)?;
        let text = std::str::from_utf8(&bytes).ok().map(str::trim);
        let decoded = (bytes.len() != 48).then(|| text.and_then(decode)).flatten();
        Self::checked(flag, decoded.unwrap_or(bytes))
    }

    fn checked(flag: &str, bytes: Vec<u8>) -> Result<Self> {
        let count = bytes.len();
        let message = || format!("{flag} must be 48 bytes, it is {count}");
        bytes.try_into().map(Self).map_err(|_| Error::invalid_input(message()))
    }
}

/// The bytes that hex or base64 stands for. What could be either is hex.
fn decode(text: &str) -> Option<Vec<u8>> {
    let hex = text.strip_prefix("0x").unwrap_or(text);
    if !hex.is_empty() && hex.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        let byte = |at| u8::from_str_radix(hex.get(at..at + 2)?, 16).ok();
        return (0..hex.len()).step_by(2).map(byte).collect();
    }
    BASE64.decode(text).ok().filter(|bytes| !bytes.is_empty())
}

impl fmt::Display for Measurement {
    /// Base64, as libvirt wants it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&BASE64.encode(self.0))
    }
}

impl fmt::Debug for Measurement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What a trust domain is launched with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tdx {
    policy: u64,
    mr_config_id: Option<Measurement>,
    mr_owner: Option<Measurement>,
    mr_owner_config: Option<Measurement>,
    qgs: Qgs,
}

impl Tdx {
    /// Settles the flags.
    ///
    /// Errors: those of [`Measurement::read`].
    pub fn new(args: &TdxArgs) -> Result<Self> {
        let read = |flag: &str, value: &Option<String>| {
            value.as_ref().map(|text| Measurement::read(flag, text)).transpose()
        };
        let sept_ve_disable = args.sept_ve_disable.unwrap_or(true);
        Ok(Self {
            policy: u64::from(args.td_debug) * DEBUG + u64::from(sept_ve_disable) * SEPT_VE_DISABLE,
            mr_config_id: read("--mr-config-id", &args.mr_config_id)?,
            mr_owner: read("--mr-owner", &args.mr_owner)?,
            mr_owner_config: read("--mr-owner-config", &args.mr_owner_config)?,
            qgs: args.qgs.clone().unwrap_or_default(),
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
        let socket = match &self.qgs {
            Qgs::None => None,
            Qgs::Default => Some(Path::new(QGS_SOCKET)),
            Qgs::Socket(path) => Some(path.as_path()),
        };
        if let Some(socket) = socket.filter(|socket| !exists(socket)) {
            warnings.push(format!(
                "no quote generation service at {}: the domain cannot be attested",
                socket.display()
            ));
        }
        warnings
    }

    /// The settings in the form a later `new` of the same name compares.
    pub fn request(&self) -> Vec<(String, String)> {
        let shown = |value: &Option<Measurement>| {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_those_a_linux_guest_needs() {
        let tdx = Tdx::new(&TdxArgs::default()).unwrap();
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
        let args = TdxArgs {
            td_debug: true,
            sept_ve_disable: Some(false),
            mr_config_id: Some("00".repeat(48)),
            mr_owner: Some(BASE64.encode([0xff; 48])),
            mr_owner_config: None,
            qgs: Some(Qgs::Socket("/run/q & a.sock".into())),
        };
        let tdx = Tdx::new(&args).unwrap();
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
        let none = TdxArgs { qgs: Some(Qgs::None), ..TdxArgs::default() };
        assert!(!Tdx::new(&none).unwrap().to_element().to_xml().unwrap().contains("quote"));
    }

    #[test]
    fn measurements_are_48_bytes_however_they_are_written() {
        let folder = tempfile::tempdir().unwrap();
        let file = |bytes: &[u8]| {
            let path = folder.path().join("value");
            std::fs::write(&path, bytes).unwrap();
            path.to_str().unwrap().to_owned()
        };
        let bytes: Vec<u8> = (0..48).collect();
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let base64 = BASE64.encode(&bytes);
        let want = Measurement(bytes.clone().try_into().unwrap());
        assert_eq!(Measurement::read("--mr-owner", &hex).unwrap(), want);
        assert_eq!(Measurement::read("--mr-owner", &format!("0x{hex}")).unwrap(), want);
        assert_eq!(Measurement::read("--mr-owner", &base64).unwrap(), want);
        for content in [bytes.as_slice(), format!("{hex}\n").as_bytes(), base64.as_bytes()] {
            assert_eq!(Measurement::read("--mr-owner", &file(content)).unwrap(), want);
        }
        for (text, says) in [
            (hex[2..].to_owned(), "must be 48 bytes, it is 47"),
            (BASE64.encode([0; 32]), "must be 48 bytes, it is 32"),
            (file(&[0; 47]), "must be 48 bytes, it is 47"),
            (String::new(), "neither 48 bytes"),
            ("xyz".to_owned(), "neither 48 bytes"),
            (format!("{}z!", &hex[2..]), "neither 48 bytes"),
            (hex[1..].to_owned(), "neither 48 bytes"),
        ] {
            let error = Measurement::read("--mr-owner", &text).unwrap_err();
            assert!(error.message().contains(says), "{text:?}: {error}");
        }
    }
}
