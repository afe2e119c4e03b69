//! Parts of a template that upstream libvirt does not know, or that a trust domain cannot have.
//!
//! Canonical's preview packages have a libvirt of their own, with elements that upstream never accepted.
//! Unless the definition is validated, upstream replaces one of them and drops the other without a message.
//! Upstream also accepts settings that a trust domain cannot have.

use std::net::SocketAddr;

use common::libvirt::{Context, Libvirt};
use common::system::sysroot::Host;
use common::units::hex_u64;
use common::xml::{Document, Edit, Node};
use common::{Error, Result};

use crate::capability;
use crate::domain_xml::listeners;
use crate::domain_xml::part::Part;
use crate::security::launch::tdx::{DEBUG, QGS_SOCKET, SEPT_VE_DISABLE};

/// The libvirt that a definition is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// Canonical's preview packages, below 11.6.
    Canonical,
    /// Upstream, 11.6 and newer.
    Upstream,
}

/// The first version of upstream libvirt with TDX. Source: <https://libvirt.org/news.html>.
const UPSTREAM_TDX: u32 = 11_006_000;

/// libvirt's schema of the content of a domain.
const SCHEMA: &str = "/usr/share/libvirt/schemas/domaincommon.rng";

impl Dialect {
    /// Returns the kind of libvirt on the host. Canonical's has the same version numbers as upstream's, but its
    /// own elements in its schema. On a remote host, an old libvirt that offers TDX must be Canonical's.
    pub fn detect(host: &Host, libvirt: &Libvirt) -> Result<Self> {
        let version = libvirt.connect().lib_version().context("read the version of libvirt")?;
        let preview = version < UPSTREAM_TDX
            && if libvirt.is_local() {
                host.read(SCHEMA)?.is_some_and(|schema| schema.contains("SocketAddress"))
            } else {
                capability::offers_tdx(libvirt)
            };
        Ok(if preview { Self::Canonical } else { Self::Upstream })
    }
}

/// Fails for a definition with settings that a trust domain cannot have. libvirt refuses some of these at
/// start, and ignores the others without a message.
///
/// Errors: `invalid_input`, which names every such element.
pub fn check_tdx(document: &Document) -> Result<()> {
    let root = document.root();
    if root.attr_at("launchSecurity", "type").as_deref() != Some("tdx") {
        return Ok(());
    }
    let has = |path: &str, attribute: &str, value: &str| {
        root.find_all(path).any(|node| node.attr(attribute).as_deref() == Some(value))
    };
    // Without a state, the feature is on.
    let is_on = |path: &str| {
        root.find(path).is_some_and(|node| node.attr("state").as_deref() != Some("off"))
    };
    let checks = [
        (has("os/loader", "type", "pflash"), "a loader of type pflash (TDX firmware has type rom)"),
        (is_on("features/smm"), "system management mode (smm)"),
        (is_on("features/pmu"), "performance counters (pmu)"),
        (
            has("features/ioapic", "driver", "kvm"),
            "an ioapic with driver kvm (TDX needs driver qemu)",
        ),
        (
            root.attr_at("cpu", "mode").as_deref() != Some("host-passthrough"),
            "a CPU with a mode other than host-passthrough",
        ),
        (root.attr("type").as_deref() != Some("kvm"), "a domain type other than kvm"),
        (has_odd_policy(root), "a policy with bits other than 0 (debug) and 28 (no #VE)"),
        (
            root.find("memoryBacking/hugepages").is_some(),
            "hugepages (private memory cannot use them)",
        ),
        (root.find("maxMemory").is_some(), "memory hotplug (maxMemory)"),
        (root.find("devices/iommu").is_some(), "a virtual IOMMU"),
        (
            root.find_all("devices/memballoon")
                .any(|balloon| balloon.attr("model").as_deref() != Some("none")),
            "a memory balloon (<memballoon model='none'/> turns it off)",
        ),
    ];
    let found: Vec<&str> =
        checks.into_iter().filter_map(|(there, what)| there.then_some(what)).collect();
    if found.is_empty() {
        Ok(())
    } else {
        Err(Error::invalid_input(format!("a trust domain cannot have {}", found.join(", ")))
            .hint("change these elements in the template"))
    }
}

/// Whether the policy has bits that libvirt does not accept.
///
/// Source: Intel TDX Module Base Architecture Specification, TD_PARAMS: ATTRIBUTES.
fn has_odd_policy(root: Node<'_>) -> bool {
    let Some(text) = root.text_at("launchSecurity/policy") else {
        return false;
    };
    hex_u64(&text).is_some_and(|policy| policy & !(DEBUG | SEPT_VE_DISABLE) != 0)
}

/// Whether only Canonical's libvirt knows a part of a definition.
fn is_of_canonical(part: &Part) -> bool {
    matches!(part.element_name(), "SocketAddress" | "allowReboot") && part.attribute.is_none()
}

/// Adapts a definition to this libvirt. `unknown` parts are translated or removed, listeners are limited to
/// 127.0.0.1, and `ssh` is forwarded to the guest's SSH server. In a template for Canonical's libvirt, the
/// firmware is replaced by libvirt's choice.
///
/// Returns the definition and descriptions of the changes.
/// Errors: `failed` if the result is not XML, which would be a defect.
pub fn fix(
    document: &Document,
    unknown: &[Part],
    ssh: Option<SocketAddr>,
) -> Result<(String, Vec<String>)> {
    let mut edit = document.edit();
    let removed: Vec<_> =
        unknown.iter().filter(|p| p.attribute.is_none()).map(|p| p.span(document)).collect();
    let mut changes = listeners::close(&mut edit, document, ssh, &removed);
    for part in unknown {
        if let Some(node) = part.node(document) {
            changes.push(match &part.attribute {
                Some(name) => fix_attribute(&mut edit, node, name, part),
                None => fix_element(&mut edit, node, part),
            });
        }
    }
    let root = document.root();
    let is_tdx = root.attr_at("launchSecurity", "type").as_deref() == Some("tdx");
    let of_canonical = unknown.iter().any(is_of_canonical);
    // In other templates the firmware is the author's choice: it is part of the guest's measurement.
    if let (true, Some(os), Some(loader)) =
        (is_tdx && of_canonical, root.child("os"), root.find("os/loader"))
    {
        let part = Part::element(loader);
        changes
            .push(format!("{part} ({}) was removed: libvirt chooses the firmware", loader.text()));
        edit.remove(loader);
        edit.set_attr(os, "firmware", "efi");
    }
    Ok((edit.finish()?, changes))
}

fn fix_attribute<'a>(edit: &mut Edit<'a>, node: Node<'a>, name: &str, part: &Part) -> String {
    // Canonical's templates misspell this attribute.
    let misspelt = name == "enable" && node.local_name().starts_with("suspend-to-");
    if misspelt && node.attr("enabled").is_none() {
        edit.rename_attr(node, name, "enabled");
        return format!("{part} was renamed to enabled");
    }
    edit.remove_attr(node, name);
    format!("{part} was removed: this version of libvirt does not support it")
}

fn fix_element<'a>(edit: &mut Edit<'a>, node: Node<'a>, part: &Part) -> String {
    edit.remove(node);
    let service = node.parent().filter(|parent| parent.name() == "quoteGenerationService");
    let (Some(service), "SocketAddress") = (service, node.name()) else {
        return format!("{part} was removed: this version of libvirt does not support it");
    };
    let of_unix = node.attr("type").as_deref() == Some("unix");
    match (of_unix.then(|| node.attr("path")).flatten(), service.attr("path")) {
        (Some(path), None) => {
            edit.set_attr(service, "path", &path);
            format!("{part} was changed to attribute path={path} of its parent")
        }
        (_, path) => {
            let path = path.unwrap_or(QGS_SOCKET.into());
            format!("{part} was removed: the quote generation service is at unix socket {path}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A trust domain with the values of Canonical's template.
    const CANONICAL: &str =
        "<domain type='kvm' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
  <name>td</name>
  <os>
    <type arch='x86_64' machine='q35'>hvm</type>
    <loader type='rom'>/usr/share/qemu/OVMF.fd</loader>
    <boot dev='hd'/>
  </os>
  <features><acpi/><apic/><ioapic driver='qemu'/></features>
  <cpu mode='host-passthrough'/>
  <pm>
    <suspend-to-mem enable='no'/>
  </pm>
  <devices>
    <disk type='file'/>
  </devices>
  <allowReboot value='no'/>
  <launchSecurity type='tdx'>
    <policy>0x10000000</policy>
    <quoteGenerationService>
      <SocketAddress type='vsock' cid='2' port='4050'/>
    </quoteGenerationService>
  </launchSecurity>
  <qemu:commandline>
    <qemu:arg value='-netdev'/>
    <qemu:arg value='user,id=n1,hostfwd=tcp::0-:22'/>
    <qemu:arg value='-device'/>
    <qemu:arg value='virtio-net-pci,netdev=n1'/>
  </qemu:commandline>
</domain>
";

    fn parsed(text: &str) -> Document {
        Document::parse(text).unwrap()
    }

    /// What upstream's libvirt does not know of it.
    fn unknown(document: &Document) -> Vec<Part> {
        let nodes = document.root().descendants();
        let elements = nodes.filter(|n| ["allowReboot", "SocketAddress"].contains(&n.name()));
        let mut parts: Vec<Part> = elements.map(Part::element).collect();
        let nodes = document.root().descendants().filter(|node| node.attr("enable").is_some());
        parts.extend(nodes.map(|node| Part::attribute(node, "enable")));
        parts
    }

    fn open(document: &Document) -> Vec<String> {
        listeners::find(document).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn fix_translates_or_removes_each_unknown_part_and_reports_it() {
        let ssh = Some("127.0.0.1:2201".parse().unwrap());
        let canonical = parsed(CANONICAL);
        let (upstream, changes) = fix(&canonical, &unknown(&canonical), ssh).unwrap();
        let document = parsed(&upstream);
        assert_eq!(unknown(&document), []);
        assert_eq!(open(&document), Vec::<String>::new());
        let expected = [
            "element domain/qemu:commandline/qemu:arg (line 25): 'user,id=n1,hostfwd=tcp::0-:22' was \
             changed to 'user,id=n1,hostfwd=tcp:127.0.0.1:2201-:22'",
            "element domain/allowReboot (line 16) was removed: this version of libvirt does not support it",
            "element domain/launchSecurity/quoteGenerationService/SocketAddress (line 20) was removed: \
             the quote generation service is at unix socket /var/run/tdx-qgs/qgs.socket",
            "attribute enable of domain/pm/suspend-to-mem (line 11) was renamed to enabled",
            "element domain/os/loader (line 5) (/usr/share/qemu/OVMF.fd) was removed: libvirt chooses \
             the firmware",
        ];
        assert_eq!(changes, expected);
        let root = document.root();
        assert_eq!(root.attr_at("pm/suspend-to-mem", "enabled").as_deref(), Some("no"));
        assert_eq!(root.attr_at("os", "firmware").as_deref(), Some("efi"));
        assert!(root.find("os/loader").is_none());
        assert!(root.find("launchSecurity/quoteGenerationService").is_some());
        assert!(check_tdx(&document).is_ok());
        let (again, changes) = fix(&document, &[], None).unwrap();
        assert_eq!((again, changes), (upstream, Vec::new()));
    }

    #[test]
    fn fix_changes_only_open_ports_if_all_parts_are_known() {
        let (fixed, changes) = fix(&parsed(CANONICAL), &[], None).unwrap();
        assert_eq!(changes.len(), 1, "{changes:?}");
        assert_eq!(fixed, CANONICAL.replace("tcp::0-", "tcp:127.0.0.1:0-"));
    }

    #[test]
    fn fix_keeps_a_unix_socket_of_the_quote_service() {
        let text = CANONICAL.replace("type='vsock' cid='2' port='4050'", "type='unix' path='/q'");
        let document = parsed(&text);
        let (fixed, _) = fix(&document, &unknown(&document), None).unwrap();
        assert!(fixed.contains("<quoteGenerationService path='/q'>"), "{fixed}");
    }

    #[test]
    fn check_tdx_names_all_elements_that_a_trust_domain_cannot_have() {
        assert!(check_tdx(&parsed(CANONICAL)).is_ok());
        let bad = CANONICAL
            .replace("type='rom'", "type='pflash'")
            .replace("<acpi/>", "<acpi/><smm state='on'/><pmu state='on'/>")
            .replace("driver='qemu'", "driver='kvm'")
            .replace("<devices>", "<memoryBacking><hugepages/></memoryBacking><devices>")
            .replace("<disk type='file'/>", "<memballoon model='virtio'/>");
        let error = check_tdx(&parsed(&bad)).unwrap_err();
        for word in ["pflash", "smm", "pmu", "ioapic", "hugepages", "balloon"] {
            assert!(error.message().contains(word), "{word}: {error}");
        }
        let ordinary = bad.replace("type='tdx'", "type='sev'");
        assert!(check_tdx(&parsed(&ordinary)).is_ok());
    }

    #[test]
    fn fix_keeps_firmware_that_is_not_canonicals() {
        let own = CANONICAL
            .replace("<allowReboot value='no'/>", "")
            .replace("<SocketAddress type='vsock' cid='2' port='4050'/>", "");
        let document = parsed(&own);
        let (fixed, _) = fix(&document, &unknown(&document), None).unwrap();
        assert!(fixed.contains("<loader type='rom'>/usr/share/qemu/OVMF.fd</loader>"), "{fixed}");
    }
}
