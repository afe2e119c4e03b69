//! The firmware of a domain: the file that its definition names, or libvirt's choice.

use std::path::PathBuf;

use common::libvirt::Libvirt;
use common::system::sysroot::Host;
use common::xml::Node;

use super::choice::{FirmwareChoice, Rules};
use super::directory::{Descriptors, Scope};
use super::guest_query::protection;
use super::query::{Feature, FirmwareQuery};
use crate::capability::Security;
use crate::domain::definition::security;

/// Returns the path of a domain's firmware on libvirt's host; `None` if libvirt would choose none, or if libvirt runs
/// on another host and chooses the firmware only later.
pub fn firmware_path(host: &Host, libvirt: &Libvirt, domain: Node<'_>) -> Option<PathBuf> {
    let stated = domain.text_at("os/loader").filter(|path| path.starts_with('/'));
    stated.map(PathBuf::from).or_else(|| {
        let wanted = FirmwareQuery::for_domain(domain).filter(|_| libvirt.is_local())?;
        // Only a libvirtd that runs as the user reads the user's directory.
        let is_user = libvirt.uri().contains(":///session");
        let scope = if is_user { Scope::User } else { Scope::System };
        let descriptors = Descriptors::read(host, scope).ok()?;
        let rules = Rules::ask(libvirt, &wanted);
        let choice = FirmwareChoice::new(&descriptors, &wanted, &rules);
        choice.build().map(|build| build.executable.path.clone())
    })
}

impl FirmwareQuery {
    /// Returns the query of a domain element; `None` if the domain does not request that libvirt chooses firmware.
    ///
    /// Source: <https://libvirt.org/formatdomain.html#bios-bootloader>; libvirt `src/qemu/qemu_firmware.c`,
    /// `qemuFirmwareMatchDomain`.
    pub fn for_domain(domain: Node<'_>) -> Option<Self> {
        let interface = match domain.attr_at("os", "firmware")?.as_ref() {
            "efi" => "uefi",
            "bios" => "bios",
            _ => return None,
        };
        let text = |path, name| domain.attr_at(path, name).map(|value| value.into_owned());
        let is = |path, name, wanted: &str| text(path, name).map(|value| value == wanted);
        let features = domain.find_all("os/firmware/feature").filter_map(|feature| {
            let present = feature.attr("enabled")? == "yes";
            Some(Feature { name: feature.attr("name")?.into_owned(), present })
        });
        let security: Security = security(domain).parse().unwrap_or(Security::None);
        let sleep = [("acpi-s3", "pm/suspend-to-mem"), ("acpi-s4", "pm/suspend-to-disk")];
        let sleep = sleep.into_iter().filter(|(_, path)| is(path, "enabled", "yes") == Some(true));
        let is_secure = is("os/loader", "secure", "yes") == Some(true);
        let secure: &[&str] = if is_secure { &["secure-boot", "requires-smm"] } else { &[] };
        let required = protection(security).iter().chain(secure).copied();
        let required = required.chain(sleep.map(|(name, _)| name));
        Some(Self {
            interface: Some(interface.to_owned()),
            architecture: text("os/type", "arch"),
            machine: text("os/type", "machine"),
            features: features.chain(required.map(Feature::with)).collect(),
            stateless: is("os/loader", "stateless", "yes"),
            smm: is("features/smm", "state", "on"),
        })
    }
}

#[cfg(test)]
mod tests {
    use common::xml::Document;

    use super::*;

    fn query(xml: &str) -> Option<FirmwareQuery> {
        FirmwareQuery::for_domain(Document::parse(xml).unwrap().root())
    }

    #[test]
    fn for_domain_reads_what_libvirt_matches() {
        let plain =
            "<domain><os firmware='efi'><type arch='x86_64' machine='q35'>hvm</type></os></domain>";
        assert_eq!(query(plain), Some(FirmwareQuery::uefi()));
        let full = "<domain><os firmware='efi'><type arch='x86_64' machine='pc-q35-10.1'>hvm</type>\
            <firmware><feature enabled='no' name='enrolled-keys'/></firmware><loader stateless='yes'/></os>\
            <features><smm state='off'/></features><pm><suspend-to-mem enabled='yes'/></pm>\
            <launchSecurity type='tdx'/></domain>";
        let expected = FirmwareQuery {
            machine: Some("pc-q35-10.1".to_owned()),
            features: vec![
                Feature::without("enrolled-keys"),
                Feature::with("intel-tdx"),
                Feature::with("acpi-s3"),
            ],
            stateless: Some(true),
            smm: Some(false),
            ..FirmwareQuery::uefi()
        };
        assert_eq!(query(full), Some(expected));
        assert_eq!(query("<domain><os><loader>/x.fd</loader></os></domain>"), None);
    }
}
