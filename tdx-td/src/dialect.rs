//! What a template says that libvirt, or TDX, would not do.
//!
//! Canonical's preview packages had a libvirt of their own, with elements that upstream never took:
//! upstream replaces one of them by something else and drops the other, without a word unless the
//! definition is validated. And upstream accepts much that a trust domain cannot have.

use std::net::SocketAddr;

use common::host::Host;
use common::libvirt::{Context, Libvirt};
use common::units::hex_u64;
use common::xml::{Document, Node};
use common::{Error, Result};

use crate::capability;
use crate::hostfwd::{self, Hostfwd};
use crate::launch::tdx::{DEBUG, SEPT_VE_DISABLE};

/// Whose libvirt the definition is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// Canonical's preview packages, below 11.6.
    Canonical,
    /// Upstream, 11.6 and newer.
    Upstream,
}

/// The library version from which TDX is upstream's. Source: <https://libvirt.org/news.html>.
const UPSTREAM_TDX: u32 = 11_006_000;

/// libvirt's schema of what a domain holds.
const SCHEMA: &str = "/usr/share/libvirt/schemas/domaincommon.rng";

impl Dialect {
    /// Whose libvirt this is: Canonical's has the same version numbers as upstream's, and its own
    /// elements in its schema. On another host, an old libvirt that offers TDX can only be Canonical's.
    pub fn of(host: &Host, libvirt: &Libvirt) -> Result<Self> {
        let version = libvirt.connect().lib_version().context("ask libvirt for its version")?;
        let preview = version < UPSTREAM_TDX
            && match libvirt.is_local() {
                true => host.read(SCHEMA)?.is_some_and(|schema| schema.contains("SocketAddress")),
                false => capability::offers_tdx(libvirt),
            };
        Ok(if preview { Self::Canonical } else { Self::Upstream })
    }

    /// The elements of a definition that this libvirt would drop without a word, as paths.
    pub fn dropped(self, document: &Document) -> Vec<String> {
        match self {
            Self::Canonical => Vec::new(),
            Self::Upstream => canonical_nodes(document).map(path_of).collect(),
        }
    }
}

/// Fails for a definition of a trust domain that asks for what a trust domain cannot have. libvirt
/// refuses some of these at start, and accepts the others in silence.
///
/// Errors: `invalid_input`, naming every such element.
pub fn check_tdx(document: &Document) -> Result<()> {
    let root = document.root();
    if root.attr_at("launchSecurity", "type").as_deref() != Some("tdx") {
        return Ok(());
    }
    let has = |path: &str, attribute: &str, value: &str| {
        root.find_all(path).any(|node| node.attr(attribute).as_deref() == Some(value))
    };
    // Without a state, on is meant.
    let is_on = |path: &str| {
        root.find(path).is_some_and(|node| node.attr("state").as_deref() != Some("off"))
    };
    let checks = [
        (has("os/loader", "type", "pflash"), "a loader of type pflash (TDX firmware is type rom)"),
        (is_on("features/smm"), "system management mode (smm)"),
        (is_on("features/pmu"), "performance counters (pmu)"),
        (has("features/ioapic", "driver", "kvm"), "the kernel's ioapic (TDX needs qemu's)"),
        (
            root.attr_at("cpu", "mode").as_deref() != Some("host-passthrough"),
            "a CPU of another mode than host-passthrough",
        ),
        (root.attr("type").as_deref() != Some("kvm"), "a type other than kvm"),
        (has_odd_policy(root), "a policy with bits other than 0 (debug) and 28 (no #VE)"),
        (root.find("memoryBacking/hugepages").is_some(), "hugepages (private memory takes none)"),
        (root.find("maxMemory").is_some(), "memory hotplug (maxMemory)"),
        (root.find("devices/iommu").is_some(), "a virtual IOMMU"),
        (
            root.find_all("devices/memballoon")
                .any(|balloon| balloon.attr("model").as_deref() != Some("none")),
            "a memory balloon (model none turns it off)",
        ),
    ];
    let found: Vec<&str> =
        checks.into_iter().filter_map(|(there, what)| there.then_some(what)).collect();
    match found.is_empty() {
        true => Ok(()),
        false => {
            Err(Error::invalid_input(format!("a trust domain cannot have {}", found.join(", ")))
                .hint("change these in the template"))
        }
    }
}

/// Source: Intel TDX Module Base Architecture Specification, TD_PARAMS: ATTRIBUTES; libvirt takes no
/// others.
fn has_odd_policy(root: Node<'_>) -> bool {
    let Some(text) = root.text_at("launchSecurity/policy") else {
        return false;
    };
    hex_u64(&text).is_some_and(|policy| policy & !(DEBUG | SEPT_VE_DISABLE) != 0)
}

fn canonical_nodes(document: &Document) -> impl Iterator<Item = Node<'_>> {
    document.root().descendants().filter(|node| match node.name() {
        "SocketAddress" => node.parent().is_some_and(|p| p.name() == "quoteGenerationService"),
        name => name == "allowReboot",
    })
}

fn path_of(node: Node<'_>) -> String {
    match node.parent() {
        Some(parent) => format!("{}/{}", path_of(parent), node.name()),
        None => node.name().to_owned(),
    }
}

/// The forwards that open a port on every address of the host, as their definition has them.
pub fn open_forwards(document: &Document) -> Vec<String> {
    let raw = hostfwd::all(document).into_iter().filter(Hostfwd::is_open);
    let passt = open_port_forwards(document).map(|node| node.source().to_owned());
    raw.map(|forward| format!("hostfwd={forward}")).chain(passt).collect()
}

/// passt listens on every address where none is named.
fn open_port_forwards(document: &Document) -> impl Iterator<Item = Node<'_>> {
    let forwards = document.root().find_all("devices/interface/portForward");
    forwards.filter(|node| node.attr("address").is_none_or(|a| a == "0.0.0.0" || a == "::"))
}

/// Makes a definition fit: in upstream's dialect quotes come from the unix socket, there is no
/// `allowReboot`, and firmware is libvirt's choice; in either, ssh is forwarded from `ssh`, or at least
/// from this host alone, instead of a port open to the world.
///
/// Returns the definition and what was changed.
/// Errors: `failed` when the result is no XML, which would be a defect.
pub fn fix(
    document: &Document,
    dialect: Dialect,
    ssh: Option<SocketAddr>,
) -> Result<(String, Vec<String>)> {
    let mut changes = Vec::new();
    let mut edit = document.edit();
    // The port of the host goes to one forward: there may be several cards.
    let mut ssh = ssh;
    let closed = hostfwd::changed(document, |forward| match ssh {
        Some(socket) if forward.is_ssh() && forward.port == 0 => {
            ssh = None;
            forward.from(socket)
        }
        _ if forward.is_open() => forward.from_here(),
        _ => forward,
    });
    for (node, old, new) in closed {
        changes.push(format!("'{old}' became '{new}'"));
        edit.set_attr(node, "value", &new);
    }
    for node in open_port_forwards(document) {
        changes.push("a portForward of every address became one of 127.0.0.1".to_owned());
        edit.set_attr(node, "address", "127.0.0.1");
    }
    if dialect == Dialect::Upstream {
        let of_canonical = canonical_nodes(document).next().is_some();
        for node in canonical_nodes(document) {
            changes.push(format!("removed {}", path_of(node)));
            edit.remove(node);
        }
        let root = document.root();
        let is_tdx = root.attr_at("launchSecurity", "type").as_deref() == Some("tdx");
        // Anyone else's choice of firmware is theirs: it is part of what the guest is measured by.
        if let (true, Some(os), Some(loader)) =
            (is_tdx && of_canonical, root.child("os"), root.find("os/loader"))
        {
            changes.push(format!("firmware is chosen by libvirt, not {}", loader.text()));
            edit.remove(loader);
            edit.set_attr(os, "firmware", "efi");
        }
    }
    Ok((edit.finish()?, changes))
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
  <devices>
    <disk type='file'/>
  </devices>
  <allowReboot>no</allowReboot>
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

    #[test]
    fn what_upstream_would_drop_is_named() {
        assert_eq!(
            Dialect::Upstream.dropped(&parsed(CANONICAL)),
            ["domain/allowReboot", "domain/launchSecurity/quoteGenerationService/SocketAddress"]
        );
        assert_eq!(Dialect::Canonical.dropped(&parsed(CANONICAL)), Vec::<String>::new());
        assert_eq!(open_forwards(&parsed(CANONICAL)), ["hostfwd=tcp::0-:22"]);
    }

    #[test]
    fn a_translation_has_none_of_it_left() {
        let ssh = Some("127.0.0.1:2201".parse().unwrap());
        let (upstream, changes) = fix(&parsed(CANONICAL), Dialect::Upstream, ssh).unwrap();
        let document = parsed(&upstream);
        assert_eq!(Dialect::Upstream.dropped(&document), Vec::<String>::new());
        assert_eq!(open_forwards(&document), Vec::<String>::new());
        assert_eq!(changes.len(), 4, "{changes:?}");
        let root = document.root();
        assert_eq!(root.attr_at("os", "firmware").as_deref(), Some("efi"));
        assert!(root.find("os/loader").is_none());
        assert!(root.find("launchSecurity/quoteGenerationService").is_some());
        assert!(upstream.contains("user,id=n1,hostfwd=tcp:127.0.0.1:2201-:22"), "{upstream}");
        assert!(check_tdx(&document).is_ok());
        let (again, changes) = fix(&document, Dialect::Upstream, None).unwrap();
        assert_eq!((again, changes), (upstream, Vec::new()));
    }

    #[test]
    fn in_its_own_dialect_only_open_ports_are_closed() {
        let (fixed, changes) = fix(&parsed(CANONICAL), Dialect::Canonical, None).unwrap();
        assert_eq!(changes.len(), 1, "{changes:?}");
        assert_eq!(fixed, CANONICAL.replace("tcp::0-", "tcp:127.0.0.1:0-"));
    }

    #[test]
    fn what_a_trust_domain_cannot_have_is_named_all_at_once() {
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
    fn open_ports_of_either_kind_are_closed() {
        let passt = "<domain><devices><interface type='user'><portForward proto='tcp'>\
            <range start='2350' to='22'/></portForward></interface></devices></domain>";
        let document = parsed(passt);
        assert_eq!(open_forwards(&document).len(), 1);
        let (fixed, changes) = fix(&document, Dialect::Upstream, None).unwrap();
        assert_eq!(changes.len(), 1);
        assert!(fixed.contains("<portForward proto='tcp' address='127.0.0.1'>"), "{fixed}");
        assert!(open_forwards(&parsed(&fixed)).is_empty());
    }

    #[test]
    fn other_peoples_firmware_is_kept() {
        let own = CANONICAL
            .replace("<allowReboot>no</allowReboot>", "")
            .replace("<SocketAddress type='vsock' cid='2' port='4050'/>", "");
        let (fixed, _) = fix(&parsed(&own), Dialect::Upstream, None).unwrap();
        assert!(fixed.contains("<loader type='rom'>/usr/share/qemu/OVMF.fd</loader>"), "{fixed}");
    }
}
