//! Checks of libvirt and QEMU for the kinds of guests.
//!
//! Source: <https://libvirt.org/news.html>; <https://libvirt.org/formatdomaincaps.html>.

use common::Result;

use crate::capability::{sectypes, version_text};
use crate::host::check::code::HostCode;
use crate::host::check::facts::Facts;
use crate::host::check::facts::libvirt::{Daemon, LibvirtFacts};
use crate::host::check::guest_kind::GuestKind;
use crate::host::check::item::CheckItem;

/// Checks libvirt. `without` are the codes that failed before, which explain what libvirt does not offer.
pub fn judge(facts: &Facts, kinds: &[GuestKind], without: &[HostCode]) -> Vec<CheckItem> {
    let asked = &facts.libvirt;
    let mut items = vec![reached(asked), network(asked), version(asked, kinds), qemu(asked, kinds)];
    let old = items.iter().filter(|item| item.is_failure()).map(|item| item.code);
    let causes: Vec<HostCode> = without.iter().copied().chain(old).collect();
    if kinds.contains(&GuestKind::Tdx) {
        items.push(tdx(asked, &causes));
    }
    if let Some(&kind) = kinds.iter().filter(|k| **k != GuestKind::Tdx && k.is_secure()).max() {
        items.push(sev(asked, kind, &causes));
    }
    items
}

fn reached(asked: &LibvirtFacts) -> CheckItem {
    let code = HostCode::Libvirt;
    match &asked.daemon {
        None => code.unknown("not checked: tdx-td did not query libvirt"),
        Some(Ok(daemon)) if !daemon.local => code.warn(
            format!(
                "{} is another host: libvirt is checked on that host, everything else on this host",
                daemon.uri
            ),
            "run the check on that host: ssh HOST tdx-td host check",
        ),
        Some(Ok(daemon)) => code.ok(&daemon.uri),
        Some(Err(why)) => code.fail(
            why,
            "install libvirt-daemon-system and run systemctl start libvirtd; for another libvirt use \
             --connect URI",
        ),
    }
}

/// Returns the daemon, or the item that says why there is no daemon to check.
pub(super) fn daemon(asked: &LibvirtFacts, code: HostCode) -> Result<&Daemon, CheckItem> {
    match &asked.daemon {
        None => Err(code.unknown("not checked: tdx-td did not query libvirt")),
        Some(Ok(daemon)) => Ok(daemon),
        Some(Err(_)) => Err(code.not_checked(HostCode::Libvirt)),
    }
}

pub(super) fn network(asked: &LibvirtFacts) -> CheckItem {
    let code = HostCode::Network;
    let daemon = match daemon(asked, code) {
        Ok(daemon) => daemon,
        Err(item) => return item,
    };
    match &daemon.network {
        Err(why) => code.unknown(why),
        Ok(Some(true)) => code.ok("network default is active"),
        Ok(Some(false)) => code.warn(
            "network default is not active",
            "virsh net-start default && virsh net-autostart default",
        ),
        Ok(None) => code.warn(
            "network default not found",
            "install libvirt-daemon-config-network, or give guests another network with --network",
        ),
    }
}

/// Whether libvirt offers trust domains, in the form of upstream or of Canonical's preview packages.
fn offers_tdx(asked: &LibvirtFacts) -> bool {
    asked.capabilities.as_ref().is_ok_and(|capabilities| {
        sectypes(capabilities).any(|kind| kind == "tdx")
            || capabilities.root().attr_at("features/tdx", "supported").as_deref() == Some("yes")
    })
}

pub(super) fn version(asked: &LibvirtFacts, kinds: &[GuestKind]) -> CheckItem {
    let code = HostCode::LibvirtVersion;
    let daemon = match daemon(asked, code) {
        Ok(daemon) => daemon,
        Err(item) => return item,
    };
    let version = daemon.version;
    let text = version_text(version);
    let has = |kind| kinds.contains(&kind);
    if has(GuestKind::Tdx) && version < 11_006_000 && !offers_tdx(asked) {
        return code.fail(
            format!("{text} does not support trust domains"),
            "install libvirt 11.6.0 or newer",
        );
    }
    if has(GuestKind::SevSnp) && version < 10_005_000 {
        return code
            .fail(format!("{text} does not support SEV-SNP"), "install libvirt 10.5.0 or newer");
    }
    if has(GuestKind::Vfio) && version < 12_001_000 {
        return code.warn(
            format!("{text} does not use iommufd, so check DMA_ENTRY_LIMIT applies"),
            "install libvirt 12.1.0 or newer",
        );
    }
    if has(GuestKind::Tdx) && version < 11_010_000 {
        return code
            .ok(format!("{text}; versions below 11.10.0 offer TDX without checking the host"));
    }
    code.ok(text)
}

pub(super) fn qemu(asked: &LibvirtFacts, kinds: &[GuestKind]) -> CheckItem {
    let code = HostCode::QemuVersion;
    let daemon = match daemon(asked, code) {
        Ok(daemon) => daemon,
        Err(item) => return item,
    };
    let version = match &daemon.qemu {
        Ok(version) => *version,
        Err(why) => return code.unknown(why),
    };
    let text = version_text(version);
    let tdx = kinds.contains(&GuestKind::Tdx);
    if tdx && version < 10_001_000 && !offers_tdx(asked) {
        return code
            .fail(format!("{text} does not support trust domains"), "install QEMU 10.1 or newer");
    }
    if kinds.contains(&GuestKind::SevSnp) && version < 9_001_000 {
        return code.fail(format!("{text} does not support SEV-SNP"), "install QEMU 9.1 or newer");
    }
    if tdx && kinds.contains(&GuestKind::Vfio) && version >= 10_002_000 {
        return code
            .ok(format!("{text}; this version refuses devices if dma_entry_limit is too low"));
    }
    code.ok(text)
}

/// The checks whose failure explains that libvirt does not offer trust domains.
const TDX_CAUSES: [HostCode; 10] = [
    HostCode::CpuVirtualization,
    HostCode::Kvm,
    HostCode::CpuTdx,
    HostCode::KernelTdx,
    HostCode::TdxModule,
    HostCode::KvmIntelTdx,
    HostCode::KvmTdx,
    HostCode::Libvirt,
    HostCode::LibvirtVersion,
    HostCode::QemuVersion,
];

/// Returns the first failure that explains what libvirt does not offer.
fn cause(causes: &[HostCode], which: &[HostCode]) -> Option<HostCode> {
    which.iter().copied().find(|code| causes.contains(code))
}

fn tdx(asked: &LibvirtFacts, causes: &[HostCode]) -> CheckItem {
    let code = HostCode::LibvirtTdx;
    if offers_tdx(asked) {
        return code.ok("libvirt lists tdx");
    }
    match (cause(causes, &TDX_CAUSES), &asked.capabilities) {
        (Some(cause), _) => code.not_checked(cause),
        (None, Err(why)) => code.unknown(why),
        (None, Ok(_)) => code.fail(
            "libvirt does not list tdx",
            "install libvirt 11.6.0 and QEMU 10.1 or newer; if they are installed: rm \
             /var/cache/libvirt/qemu/capabilities/* and systemctl restart libvirtd",
        ),
    }
}

const SEV_CAUSES: [HostCode; 9] = [
    HostCode::CpuVirtualization,
    HostCode::Kvm,
    HostCode::CpuSev,
    HostCode::SevFirmware,
    HostCode::KvmAmdSev,
    HostCode::SevGuests,
    HostCode::Libvirt,
    HostCode::LibvirtVersion,
    HostCode::QemuVersion,
];

fn sev(asked: &LibvirtFacts, kind: GuestKind, causes: &[HostCode]) -> CheckItem {
    let code = HostCode::LibvirtSev;
    let found = asked.capabilities.as_ref().map(|capabilities| {
        let root = capabilities.root();
        let text = |what: &str| root.text_at(&format!("features/sev/{what}")).unwrap_or_default();
        let supported = root.attr_at("features/sev", "supported").as_deref() == Some("yes");
        let bits = (text("cbitpos"), text("reducedPhysBits"));
        let listed =
            kind != GuestKind::SevSnp || sectypes(capabilities).any(|kind| kind == "sev-snp");
        let has_bits = !bits.0.is_empty() && !bits.1.is_empty();
        (supported && has_bits && listed)
            .then(|| format!("cbitpos {}, reducedPhysBits {}", bits.0, bits.1))
    });
    match (found, cause(causes, &SEV_CAUSES)) {
        (Ok(Some(found)), _) => code.ok(found),
        (_, Some(cause)) => code.not_checked(cause),
        (Err(why), None) => code.unknown(why),
        (Ok(None), None) => code.fail(
            format!("libvirt does not offer {}", kind.name()),
            "install newer versions of libvirt and QEMU (SEV-SNP needs libvirt 10.5.0 and QEMU 9.1); if \
             they are installed: rm /var/cache/libvirt/qemu/capabilities/* and systemctl restart libvirtd",
        ),
    }
}
