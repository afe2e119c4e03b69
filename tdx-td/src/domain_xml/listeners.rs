//! The elements of a definition that open a port on every address of the host.
//!
//! Source: <https://libvirt.org/formatdomain.html>: "Graphical framebuffers", "Guest interface", "TCP client/server", "UDP network console".

use std::borrow::Cow;
use std::net::{Ipv4Addr, SocketAddr};
use std::ops::Range;

use common::xml::{Document, Edit, Node};

use crate::domain_xml::address::is_every_address;
use crate::domain_xml::part::Part;
use crate::domain_xml::{hostfwd, raw_listeners};

/// An element that opens a port on every address of the host.
#[derive(Debug)]
pub struct Listener<'a> {
    node: Node<'a>,
    /// The attribute or argument that opens the port, such as `hostfwd=tcp::0-:22`.
    what: String,
    remedy: Remedy,
}

/// How to limit a listener to 127.0.0.1.
#[derive(Debug)]
enum Remedy {
    /// Set this attribute.
    Address(&'static str),
    /// Change the forward in a raw argument, with [`hostfwd::changed_arguments`].
    Forward,
    /// Unknown: the author of the template has to change it.
    None,
}

impl Listener<'_> {
    /// Whether [`close`] can limit the listener to 127.0.0.1.
    pub fn can_be_closed(&self) -> bool {
        !matches!(self.remedy, Remedy::None)
    }
}

impl std::fmt::Display for Listener<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} in {}", self.what, Part::element(self.node))
    }
}

/// Returns the elements that open a port on every address of the host.
pub fn find(document: &Document) -> Vec<Listener<'_>> {
    let root = document.root();
    let mut found = Vec::new();
    let mut add = |node, attribute: &'static str, what: String| {
        found.push(Listener { node, what, remedy: Remedy::Address(attribute) });
    };
    for graphics in root.find_all("devices/graphics") {
        if let Some(listen) = graphics.attr("listen").filter(|address| is_every_address(address)) {
            add(graphics, "listen", format!("listen={listen}"));
        }
        let listens = graphics.children().filter(|node| node.name() == "listen");
        for node in listens.filter(|node| node.attr("type").as_deref() == Some("address")) {
            if let Some(address) = node.attr("address").filter(|a| is_every_address(a)) {
                add(node, "address", format!("address={address}"));
            }
        }
    }
    for (source, host) in open_sources(root) {
        add(source, "host", format!("host={host}"));
    }
    for interface in root.find_all("devices/interface") {
        for (node, address) in open_addresses(interface) {
            add(node, "address", format!("address={address}"));
        }
    }
    let forwards = hostfwd::find_by_argument(document).into_iter();
    found.extend(forwards.filter(|(_, forward)| forward.is_open()).map(|(node, forward)| {
        Listener { node, what: format!("hostfwd={forward}"), remedy: Remedy::Forward }
    }));
    found.extend(raw_listeners::find(document).into_iter().map(|(node, what)| Listener {
        node,
        what,
        remedy: Remedy::None,
    }));
    found
}

/// Returns the `<source>` elements of character devices that listen on every address.
fn open_sources(root: Node<'_>) -> Vec<(Node<'_>, Cow<'_, str>)> {
    let devices = root.find_all("devices").flat_map(Node::children);
    let is_character_device = |node: &Node<'_>| {
        matches!(
            node.name(),
            "serial" | "parallel" | "console" | "channel" | "redirdev" | "smartcard" | "rng"
        )
    };
    let mut found = Vec::new();
    for device in devices.filter(is_character_device) {
        for source in device.descendants().filter(|node| node.name() == "source") {
            let of_network = source.attr("service").is_some() || source.attr("host").is_some();
            let listens = source.attr("mode").as_deref() == Some("bind");
            // Without a host, QEMU listens on every address.
            let host = source.attr("host").unwrap_or_default();
            if of_network && listens && (host.is_empty() || is_every_address(&host)) {
                found.push((source, host));
            }
        }
    }
    found
}

/// Returns the elements of a network card that make QEMU or passt listen on every address.
fn open_addresses(interface: Node<'_>) -> Vec<(Node<'_>, Cow<'_, str>)> {
    let kind = interface.attr("type").unwrap_or_default();
    let path = match kind.as_ref() {
        "server" => "source",
        "udp" => "source/local",
        // passt listens on every address if none is named.
        _ => "portForward",
    };
    let nodes = interface.find_all(path);
    nodes
        .filter_map(|node| {
            let address = node.attr("address").unwrap_or_default();
            let by_device = path == "portForward" && node.attr("dev").is_some();
            let open = address.is_empty() || is_every_address(&address);
            (open && !by_device).then_some((node, address))
        })
        .collect()
}

/// Limits all listeners to 127.0.0.1 for which that is possible. A forward to SSH whose port QEMU would choose
/// gets the address and port `ssh`. Elements in the `removed` ranges of the text are skipped. Returns
/// descriptions of the changes.
pub fn close<'a>(
    edit: &mut Edit<'a>,
    document: &'a Document,
    ssh: Option<SocketAddr>,
    removed: &[Range<usize>],
) -> Vec<String> {
    let stays = |node: Node<'_>| !removed.iter().any(|range| range.contains(&node.span().start));
    let mut changes = Vec::new();
    // Only one forward gets the port of the host: there may be several cards.
    let mut ssh = ssh;
    let changed = hostfwd::changed_arguments(document, |forward| match ssh {
        Some(socket) if forward.is_ssh() && forward.port == 0 => {
            ssh = None;
            forward.from(socket)
        }
        _ if forward.is_open() => forward.from_loopback(),
        _ => forward,
    });
    for (node, old, new) in changed.into_iter().filter(|(node, ..)| stays(*node)) {
        changes.push(format!("{}: '{old}' was changed to '{new}'", Part::element(node)));
        edit.set_attr(node, "value", &new);
    }
    for listener in find(document).into_iter().filter(|listener| stays(listener.node)) {
        if let Remedy::Address(attribute) = listener.remedy {
            let here = Ipv4Addr::LOCALHOST.to_string();
            changes.push(format!("{listener} was changed to {attribute}={here}"));
            edit.set_attr(listener.node, attribute, &here);
        }
    }
    changes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn domain(devices: &str) -> Document {
        let text = format!(
            "<domain xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'><devices>\n{devices}\
             \n</devices></domain>"
        );
        Document::parse(text).unwrap()
    }

    #[test]
    fn close_limits_every_element_that_listens_on_every_address() {
        for (open, closed) in [
            ("<graphics type='vnc' listen='0.0.0.0'/>", "listen='127.0.0.1'"),
            (
                "<graphics type='spice'><listen type='address' address='::'/></graphics>",
                "address='127.0.0.1'",
            ),
            (
                "<serial type='tcp'><source mode='bind' host='0.0.0.0' service='4555'/></serial>",
                "host='127.0.0.1'",
            ),
            (
                "<channel type='tcp'><source mode='bind' host='*' service='1'/></channel>",
                "host='127.0.0.1'",
            ),
            ("<console type='udp'><source mode='bind' service='1'/></console>", "host='127.0.0.1'"),
            (
                "<rng><backend model='egd' type='udp'><source mode='bind' service='1'/></backend>\
                 </rng>",
                "host='127.0.0.1'",
            ),
            (
                "<interface type='server'><source address='0' port='5558'/></interface>",
                "address='127.0.0.1'",
            ),
            (
                "<interface type='udp'><source address='192.0.2.1' port='1'>\
                 <local address='0.0.0.0' port='2'/></source></interface>",
                "<local address='127.0.0.1'",
            ),
            (
                "<interface type='user'><portForward proto='tcp'><range start='1'/></portForward>\
                 </interface>",
                "address='127.0.0.1'",
            ),
        ] {
            let document = domain(open);
            let found = find(&document);
            assert_eq!(found.len(), 1, "{open}");
            assert!(
                found[0].can_be_closed() && found[0].to_string().contains("(line 2)"),
                "{open}"
            );
            let mut edit = document.edit();
            assert_eq!(close(&mut edit, &document, None, &[]).len(), 1, "{open}");
            let text = edit.finish().unwrap();
            assert!(text.contains(closed), "{text}");
            assert!(find(&Document::parse(text).unwrap()).is_empty(), "{open}");
        }
    }

    #[test]
    fn close_keeps_elements_that_listen_on_one_address_or_not_at_all() {
        let document = domain(
            "<graphics type='vnc'/><graphics type='vnc' listen='127.0.0.1'/>\
             <graphics type='vnc'><listen type='network' network='default'/></graphics>\
             <graphics type='vnc'><listen type='socket'/></graphics>\
             <serial type='tcp'><source mode='connect' host='0.0.0.0' service='1'/></serial>\
             <channel type='unix'><source mode='bind'/></channel>\
             <serial type='tcp'><source mode='bind' host='::1' service='1'/></serial>\
             <interface type='network'><source network='default'/></interface>\
             <interface type='user'><portForward proto='tcp' address='127.0.0.1'/></interface>\
             <interface type='user'><portForward proto='tcp' dev='eth0'/></interface>",
        );
        assert!(find(&document).is_empty(), "{:?}", find(&document));
    }
}
