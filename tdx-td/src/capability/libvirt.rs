//! The capabilities of the host's libvirt and QEMU.

use common::libvirt::{Context, Libvirt};
use common::system::sysroot::Host;
use common::xml::Document;
use common::{Error, Result};

use crate::capability::virt_type::VirtType;

pub(crate) fn domain_capabilities(libvirt: &Libvirt, virt_type: VirtType) -> Result<Document> {
    let text = libvirt
        .connect()
        .domain_capabilities(None, Some("x86_64"), Some("q35"), Some(virt_type.as_str()), 0)
        .context("read libvirt's domain capabilities")?;
    Document::parse(text)
}

/// Returns the machine types of the host's QEMU, by all their names.
///
/// Source: <https://libvirt.org/formatcaps.html#guest-capabilities>.
pub fn machines(libvirt: &Libvirt) -> Result<Vec<String>> {
    let text = libvirt.connect().capabilities().context("read libvirt's capabilities")?;
    let capabilities = Document::parse(text)?;
    let archs = capabilities.root().find_all("guest/arch");
    let x86_64 = archs.into_iter().filter(|arch| arch.attr("name").as_deref() == Some("x86_64"));
    Ok(x86_64.flat_map(|arch| arch.find_all("machine")).map(|machine| machine.text()).collect())
}

/// Returns the values that libvirt lists for a kind of device, such as `video`.
///
/// Source: <https://libvirt.org/formatdomaincaps.html#devices>.
pub fn device_values(libvirt: &Libvirt, virt_type: VirtType, device: &str) -> Result<Vec<String>> {
    let capabilities = domain_capabilities(libvirt, virt_type)?;
    let path = format!("devices/{device}/enum/value");
    let values = capabilities.root().find_all(&path);
    Ok(values.map(|value| value.text()).collect())
}

/// Fails for more virtual CPUs than the machine type takes.
///
/// Errors: `unsupported` (exit 6).
pub fn check_vcpus(libvirt: &Libvirt, virt_type: VirtType, vcpus: u32) -> Result<()> {
    let capabilities = domain_capabilities(libvirt, virt_type)?;
    let most = capabilities.root().attr_at("vcpu", "max").and_then(|most| most.parse().ok());
    match most {
        Some(most) if vcpus > most => Err(Error::unsupported(format!(
            "{vcpus} vCPUs are too many: a guest on this host can have {most}"
        ))),
        _ => Ok(()),
    }
}

/// Fails on a host without vsock for guests.
///
/// Errors: `unsupported` (exit 6).
pub fn check_vsock(host: &Host) -> Result<()> {
    if host.has("/dev/vhost-vsock") {
        Ok(())
    } else {
        Err(Error::unsupported("the guest's vsock needs /dev/vhost-vsock, which does not exist")
            .hint("modprobe vhost_vsock"))
    }
}

/// Returns the kinds of launch security that libvirt lists.
pub(crate) fn sectypes(capabilities: &Document) -> impl Iterator<Item = String> {
    let values = capabilities.root().find_all("features/launchSecurity/enum/value");
    values.map(|value| value.text())
}

/// Whether libvirt lists trust domains in its domain capabilities, in the form of upstream or of Canonical's
/// preview packages.
pub fn offers_tdx(libvirt: &Libvirt) -> bool {
    // Without KVM the call fails.
    domain_capabilities(libvirt, VirtType::Kvm).is_ok_and(|capabilities| {
        let preview = capabilities.root().attr_at("features/tdx", "supported");
        sectypes(&capabilities).any(|kind| kind == "tdx") || preview.as_deref() == Some("yes")
    })
}

/// Whether libvirt can run passt for guests. passt forwards ports without raw arguments for QEMU.
///
/// Source: <https://libvirt.org/formatdomaincaps.html>, `interface`, enum `backendType`.
pub fn has_passt(host: &Host, libvirt: &Libvirt, virt_type: VirtType) -> Result<bool> {
    let capabilities = domain_capabilities(libvirt, virt_type)?;
    let mut backends = capabilities.root().find_all("devices/interface/enum/value");
    let offered = backends.any(|value| value.text() == "passt");
    Ok(offered && (!libvirt.is_local() || host.has("/usr/bin/passt")))
}

/// Whether guests get host devices by iommufd, which does not limit mappings, instead of a VFIO container.
///
/// Source: <https://libvirt.org/news.html>, 12.1.0; Linux `Documentation/driver-api/vfio.rst`, "IOMMUFD and
/// vfio_iommu_type1".
pub fn has_iommufd(host: &Host, libvirt: &Libvirt) -> Result<bool> {
    let version = libvirt.connect().lib_version().context("read the version of libvirt")?;
    Ok(version >= 12_001_000 && host.has("/dev/iommu"))
}

pub(crate) fn version_text(version: u32) -> String {
    format!("{}.{}.{}", version / 1_000_000, version / 1000 % 1000, version % 1000)
}
