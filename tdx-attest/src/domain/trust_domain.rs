//! What a domain XML says about the measurements of a trust domain.
//!
//! Source: <https://libvirt.org/formatdomain.html#launch-security>; Intel TDX Module Base specification, TD_PARAMS;
//! QEMU `target/i386/kvm/tdx.c`, `setup_td_guest_attributes`.

use std::path::PathBuf;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use common::units::hex_u64;
use common::xml::{Document, Node};
use common::{Error, Result};

use crate::attributes::{DEBUG, PERFMON, PKS, SEPT_VE_DISABLE};
use crate::domain::memory::guest_memory;
use crate::register::Digest;
use crate::rtmr0::GuestMemory;

/// The definition of a trust domain.
#[derive(Debug)]
pub struct TrustDomain {
    /// The name of the domain.
    pub name: String,
    /// The path of the firmware, if the definition states it.
    pub firmware: Option<PathBuf>,
    /// The values that the host sets.
    pub owner: Owner,
    /// The attributes.
    pub attributes: Attributes,
    /// The memory, or the reason why its layout is not known.
    pub memory: Result<GuestMemory, String>,
    /// The options in raw arguments for QEMU that may change what is measured, such as `-machine`.
    pub raw_options: Vec<String>,
}

/// MRCONFIGID, MROWNER and MROWNERCONFIG. A value that the definition does not set is zero.
#[derive(Debug)]
pub struct Owner {
    /// MRCONFIGID.
    pub mr_config_id: Digest,
    /// MROWNER.
    pub mr_owner: Digest,
    /// MROWNERCONFIG.
    pub mr_owner_config: Digest,
}

/// The attributes of a trust domain.
#[derive(Debug, PartialEq, Eq)]
pub struct Attributes {
    /// The bits.
    pub bits: u64,
    /// What must be true for the bits to be right.
    pub assumes: Vec<String>,
}

impl TrustDomain {
    /// Reads a domain XML.
    ///
    /// Errors: `invalid_input` for text that is not the XML of a trust domain, and for invalid values in it.
    pub fn parse(xml: &str) -> Result<Self> {
        let document = Document::parse(xml)?;
        let domain = document.root();
        if domain.name() != "domain" {
            let message = format!("the XML describes a <{}>, not a domain", domain.name());
            return Err(Error::invalid_input(message));
        }
        let name = domain.text_at("name").unwrap_or_default();
        let launch = domain.child("launchSecurity");
        let launch = launch.filter(|launch| launch.attr("type").as_deref() == Some("tdx"));
        let launch = launch.ok_or_else(|| {
            Error::invalid_input(format!(
                "domain '{name}' is not a trust domain: its definition has no <launchSecurity type='tdx'>"
            ))
        })?;
        let value = |element| value(launch, element, &name);
        Ok(Self {
            firmware: domain
                .text_at("os/loader")
                .filter(|path| !path.is_empty())
                .map(PathBuf::from),
            owner: Owner {
                mr_config_id: value("mrConfigId")?,
                mr_owner: value("mrOwner")?,
                mr_owner_config: value("mrOwnerConfig")?,
            },
            attributes: Attributes::read(domain, launch, &name)?,
            memory: guest_memory(domain),
            raw_options: raw_options(domain),
            name,
        })
    }
}

/// Reads a SHA-384 digest in base64; zero if the element is absent or empty.
fn value(launch: Node<'_>, element: &str, domain: &str) -> Result<Digest> {
    let text = launch.text_at(element).unwrap_or_default();
    let text: String = text.split_whitespace().collect();
    if text.is_empty() {
        return Ok(Digest::ZERO);
    }
    let bytes = BASE64.decode(&text).ok().and_then(|bytes| bytes.try_into().ok());
    bytes.map(Digest).ok_or_else(|| {
        Error::invalid_input(format!(
            "<{element}> of domain '{domain}' is not the base64 of 48 bytes"
        ))
    })
}

impl Attributes {
    /// Whether the host may debug the trust domain, and so read its memory.
    pub fn has_debug(&self) -> bool {
        self.bits & DEBUG != 0
    }

    fn read(domain: Node<'_>, launch: Node<'_>, name: &str) -> Result<Self> {
        let mut assumes = Vec::new();
        let mut bits = match launch.text_at("policy").filter(|policy| !policy.is_empty()) {
            Some(policy) => hex_u64(&policy).ok_or_else(|| {
                Error::invalid_input(format!(
                    "<policy> of domain '{name}' is not a hexadecimal number of 64 bits"
                ))
            })?,
            None => {
                assumes.push(
                    "QEMU sets the attribute SEPT_VE_DISABLE (bit 28) if <policy> is missing"
                        .to_owned(),
                );
                SEPT_VE_DISABLE
            }
        };
        let pmu = domain.find("features/pmu");
        if pmu.is_some_and(|pmu| pmu.attr("state").is_none_or(|state| state == "on")) {
            bits |= PERFMON;
        }
        let mut features = domain.find_all("cpu/feature");
        let pks = features.find(|feature| feature.attr("name").as_deref() == Some("pks"));
        let policy = pks.map(|pks| pks.attr("policy").unwrap_or("require".into()));
        match policy.as_deref() {
            Some("require" | "force") => bits |= PKS,
            Some("disable" | "forbid") => {}
            _ if bits & PKS != 0 => {}
            _ => assumes.push(
                "QEMU does not set the attribute PKS (bit 30) for the processor of the host"
                    .to_owned(),
            ),
        }
        Ok(Self { bits, assumes })
    }
}

/// The options in `<qemu:commandline>`, other than those that add a device or its network.
fn raw_options(domain: Node<'_>) -> Vec<String> {
    let lines = domain.children().filter(|child| child.local_name() == "commandline");
    let arguments = lines.flat_map(Node::children).filter(|child| child.local_name() == "arg");
    let values = arguments.filter_map(|argument| Some(argument.attr("value")?.into_owned()));
    let mut options: Vec<String> = values
        .filter(|value| value.starts_with('-'))
        .filter(|value| !matches!(value.trim_start_matches('-'), "device" | "netdev" | "chardev"))
        .collect();
    options.sort_unstable();
    options.dedup();
    options
}

#[cfg(test)]
mod tests {
    use super::*;

    fn domain(inside: &str) -> String {
        format!("<domain xmlns:qemu='urn:q'><name>td1</name>{inside}</domain>")
    }

    fn launch(inside: &str) -> String {
        domain(&format!("<launchSecurity type='tdx'>{inside}</launchSecurity>"))
    }

    #[test]
    fn values_of_the_owner_are_read_from_base64() {
        let bytes: [u8; 48] = std::array::from_fn(|at| at as u8);
        let text = BASE64.encode(bytes);
        let (left, right) = text.split_at(20);
        let xml = launch(&format!(
            "<mrConfigId>{text}</mrConfigId><mrOwner>\n {left}\n {right}</mrOwner><mrOwnerConfig/>"
        ));
        let owner = TrustDomain::parse(&xml).unwrap().owner;
        assert_eq!((owner.mr_config_id, owner.mr_owner), (Digest(bytes), Digest(bytes)));
        assert_eq!(owner.mr_owner_config, Digest::ZERO);
    }

    #[test]
    fn attributes_are_the_policy_and_what_qemu_adds() {
        let read = |before: &str, policy: &str| {
            let launch = format!("<launchSecurity type='tdx'>{policy}</launchSecurity>");
            TrustDomain::parse(&domain(&format!("{before}{launch}"))).unwrap().attributes
        };
        let without_pks = "<cpu><feature policy='disable' name='pks'/></cpu>";
        for (before, policy, bits, assumptions) in [
            (without_pks, "<policy>0x10000000</policy>", 1 << 28, 0),
            (without_pks, "<policy>10000001</policy>", 1 << 28 | 1, 0),
            (without_pks, "", 1 << 28, 1),
            ("", "<policy>0x0</policy>", 0, 1),
            ("", "<policy>0x40000000</policy>", 1 << 30, 0),
            (
                "<cpu><feature policy='require' name='pks'/></cpu>",
                "<policy>0x0</policy>",
                1 << 30,
                0,
            ),
            ("<cpu><feature name='pks'/></cpu>", "<policy>0x0</policy>", 1 << 30, 0),
            (
                "<features><pmu state='on'/></features>",
                "<policy>0x40000000</policy>",
                1 << 63 | 1 << 30,
                0,
            ),
            ("<features><pmu/></features>", "<policy>0x40000000</policy>", 1 << 63 | 1 << 30, 0),
            ("<features><pmu state='off'/></features>", "<policy>0x40000000</policy>", 1 << 30, 0),
        ] {
            let attributes = read(before, policy);
            assert_eq!(
                (attributes.bits, attributes.assumes.len()),
                (bits, assumptions),
                "{before}{policy}"
            );
        }
    }

    #[test]
    fn raw_arguments_of_devices_are_left_out_and_others_are_named() {
        let arguments = |values: &[&str]| {
            let values: String =
                values.iter().map(|value| format!("<qemu:arg value='{value}'/>")).collect();
            let xml = format!(
                "<launchSecurity type='tdx'/><qemu:commandline>{values}</qemu:commandline>"
            );
            TrustDomain::parse(&domain(&xml)).unwrap().raw_options
        };
        assert_eq!(
            arguments(&["-netdev", "user,id=n", "-device", "virtio-net-pci,netdev=n"]),
            [""; 0]
        );
        assert_eq!(arguments(&["-m", "4G", "-bios", "/x", "-m", "5G"]), ["-bios", "-m"]);
    }

    #[test]
    fn xml_of_other_things_and_invalid_values_are_refused() {
        for (xml, says) in [
            ("<network/>".to_owned(), "the XML describes a <network>, not a domain"),
            ("<domain>".to_owned(), "malformed XML"),
            (domain(""), "domain 'td1' is not a trust domain"),
            (domain("<launchSecurity type='sev'/>"), "domain 'td1' is not a trust domain"),
            (domain("<x><launchSecurity type='tdx'/></x>"), "domain 'td1' is not a trust domain"),
            (launch("<policy>x</policy>"), "<policy> of domain 'td1' is not a hexadecimal number"),
            (
                launch("<policy>0x10000000000000000</policy>"),
                "<policy> of domain 'td1' is not a hexadecimal number",
            ),
            (
                launch("<mrOwner>AAAA</mrOwner>"),
                "<mrOwner> of domain 'td1' is not the base64 of 48 bytes",
            ),
            (
                launch("<mrConfigId>!</mrConfigId>"),
                "<mrConfigId> of domain 'td1' is not the base64",
            ),
        ] {
            let error = TrustDomain::parse(&xml).unwrap_err();
            assert!(error.message().starts_with(says), "{xml}: {error}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_definition_makes_parse_panic(
            text in "\\PC*",
            parts in proptest::collection::vec(proptest::sample::select(vec![
                "<policy>", "</policy>", "<mrOwner>", "</mrOwner>", "0x1", "AAAA", "=", "<memory unit='EiB'>",
                "</memory>", "99999999", "<cpu><numa><cell memory='18446744073709551615' unit='b'/></numa></cpu>",
                "<os><type machine='q35'/><loader>", "</loader></os>", "<features><pmu/></features>",
            ]), 0..12),
        ) {
            let _ = TrustDomain::parse(&text);
            let _ = TrustDomain::parse(&launch(&text));
            let _ = TrustDomain::parse(&launch(&parts.concat()));
            let _ = TrustDomain::parse(&domain(&format!("<launchSecurity type='tdx'/>{}", parts.concat())));
        }
    }
}
