//! `hostfwd=` of QEMU's user network in raw arguments, by which the original script forwards a port to a guest's
//! SSH server.
//!
//! QEMU accepts the argument of `-netdev` in two forms: `user,id=n,hostfwd=tcp::0-:22`, and a JSON object with
//! `"hostfwd":[{"str":"tcp::0-:22"}]`.
//!
//! Source: qemu(1), `-netdev user`: `hostfwd=[tcp|udp]:[hostaddr]:hostport-[guestaddr]:guestport`;
//! QEMU's `qapi/net.json`, `NetdevUserOptions`.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::str::FromStr;

use common::xml::{Document, Node};
use serde_json::Value;

use crate::domain_xml::address::is_every_address;

/// A port of the host that is forwarded to a port of the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hostfwd {
    /// Protocol: `tcp` or `udp`.
    pub protocol: String,
    /// The host's address; `None` for all addresses.
    pub address: Option<IpAddr>,
    /// The host's port; 0 if QEMU chooses one at each start.
    pub port: u16,
    /// Address and port of the guest, `[ADDRESS]:PORT`.
    guest: String,
}

impl Hostfwd {
    /// Whether the port is forwarded to port 22 of the guest.
    pub fn is_ssh(&self) -> bool {
        self.protocol == "tcp" && self.guest.rsplit_once(':').is_some_and(|(_, port)| port == "22")
    }

    /// Whether the port is open on all addresses of the host.
    pub fn is_open(&self) -> bool {
        self.address.is_none_or(|address| address.is_unspecified())
    }

    /// Returns this forward from another address and port of the host.
    pub fn from(self, socket: SocketAddr) -> Self {
        Self { address: Some(socket.ip()), port: socket.port(), ..self }
    }

    /// Returns this forward from 127.0.0.1 only.
    pub fn from_loopback(self) -> Self {
        let here = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), self.port);
        self.from(here)
    }
}

impl FromStr for Hostfwd {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (protocol, rest) = text.split_once(':').ok_or(())?;
        let (from, guest) = rest.split_once('-').ok_or(())?;
        let (address, port) = from.rsplit_once(':').ok_or(())?;
        Ok(Self {
            protocol: if protocol.is_empty() { "tcp" } else { protocol }.to_owned(),
            address: match address {
                "" => None,
                every if is_every_address(every) => Some(IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
                address => Some(address.parse().map_err(|_| ())?),
            },
            port: port.parse().map_err(|_| ())?,
            guest: guest.to_owned(),
        })
    }
}

impl fmt::Display for Hostfwd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { protocol, address, port, guest } = self;
        let address = address.map(|address| address.to_string()).unwrap_or_default();
        write!(f, "{protocol}:{address}:{port}-{guest}")
    }
}

const KEY: &str = "hostfwd=";

/// Returns every forward in a domain's raw arguments.
pub fn find_all(document: &Document) -> Vec<Hostfwd> {
    find_by_argument(document).into_iter().map(|(_, forward)| forward).collect()
}

/// Returns every forward in a domain's raw arguments, with its argument.
pub fn find_by_argument(document: &Document) -> Vec<(Node<'_>, Hostfwd)> {
    let mut found = Vec::new();
    for (node, value) in arguments(document) {
        rewrite(&value, &mut |forward| {
            found.push((node, forward.clone()));
            forward
        });
    }
    found
}

/// Returns the raw arguments whose forwards `change` changes, each with its old and its new value.
pub fn changed_arguments(
    document: &Document,
    mut change: impl FnMut(Hostfwd) -> Hostfwd,
) -> Vec<(Node<'_>, String, String)> {
    let arguments = arguments(document);
    arguments
        .filter_map(|(node, old)| {
            let new = rewrite(&old, &mut change)?;
            Some((node, old, new))
        })
        .collect()
}

/// Returns an argument with its forwards changed; `None` if `change` changes none of them.
fn rewrite(argument: &str, change: &mut impl FnMut(Hostfwd) -> Hostfwd) -> Option<String> {
    let mut changed = false;
    let mut one = |text: &str| -> Option<String> {
        let old: Hostfwd = text.parse().ok()?;
        let new = change(old.clone());
        changed |= new != old;
        (new != old).then(|| new.to_string())
    };
    let new = match json(argument) {
        Some(mut object) => {
            let forwards = object.get_mut("hostfwd").and_then(Value::as_array_mut);
            for text in forwards.into_iter().flatten().filter_map(|forward| forward.get_mut("str"))
            {
                if let Some(new) = text.as_str().and_then(&mut one) {
                    *text = Value::String(new);
                }
            }
            object.to_string()
        }
        None => {
            let part = |part: &str| match part.strip_prefix(KEY).and_then(&mut one) {
                Some(forward) => format!("{KEY}{forward}"),
                None => part.to_owned(),
            };
            argument.split(',').map(part).collect::<Vec<_>>().join(",")
        }
    };
    changed.then_some(new)
}

/// Parses an argument as a JSON object. QEMU also accepts strings in single quotes.
fn json(argument: &str) -> Option<Value> {
    let text = argument.trim();
    if !text.starts_with('{') {
        return None;
    }
    let object = serde_json::from_str(text).or_else(|_| serde_json::from_str(&double_quoted(text)));
    object.ok()
}

/// Returns JSON with every string in double quotes.
fn double_quoted(text: &str) -> String {
    let mut quote = None;
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match (c, quote) {
            ('\\', Some(_)) => match chars.next() {
                Some('\'') => out.push('\''),
                escaped => {
                    out.push('\\');
                    out.extend(escaped);
                }
            },
            ('\'' | '"', None) => {
                quote = Some(c);
                out.push('"');
            }
            (c, Some(open)) if c == open => {
                quote = None;
                out.push('"');
            }
            ('"', Some(_)) => out.push_str("\\\""),
            (c, _) => out.push(c),
        }
    }
    out
}

fn arguments(document: &Document) -> impl Iterator<Item = (Node<'_>, String)> {
    let arguments = document.root().descendants().filter(|node| node.local_name() == "arg");
    arguments.filter_map(|node| Some((node, node.attr("value")?.into_owned())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostfwd_parses_what_qemu_accepts() {
        for (text, shown, open, ssh) in [
            ("tcp::0-:22", "tcp::0-:22", true, true),
            (":0.0.0.0:2350-:22", "tcp:0.0.0.0:2350-:22", true, true),
            ("tcp:0:22-:22", "tcp:0.0.0.0:22-:22", true, true),
            ("tcp:127.0.0.1:2222-10.0.2.15:22", "tcp:127.0.0.1:2222-10.0.2.15:22", false, true),
            ("udp::53-:53", "udp::53-:53", true, false),
            ("tcp::8022-:8022", "tcp::8022-:8022", true, false),
        ] {
            let forward: Hostfwd = text.parse().unwrap();
            assert_eq!(forward.to_string(), shown);
            assert_eq!((forward.is_open(), forward.is_ssh()), (open, ssh), "{text}");
        }
        for text in ["", "tcp", "tcp::22", "tcp::x-:22", "tcp:host:1-:22", "tcp::99999-:22"] {
            assert!(text.parse::<Hostfwd>().is_err(), "{text}");
        }
    }

    #[test]
    fn changed_arguments_rewrites_json_arguments() {
        let argument =
            r#"{"type":"user","id":"n","hostfwd":[{"str":"tcp::0-:22"},{"str":"udp::5-:5"}]}"#;
        let single = argument.replace('"', "'");
        for argument in [argument, &single, &format!(" {argument}\n")] {
            let mut ports = Vec::new();
            assert_eq!(
                rewrite(argument, &mut |forward| {
                    ports.push(forward.port);
                    forward
                }),
                None
            );
            assert_eq!(ports, [0, 5]);
            let new = rewrite(argument, &mut Hostfwd::from_loopback).unwrap();
            let new: Value = serde_json::from_str(&new).unwrap();
            assert_eq!(new["hostfwd"][0]["str"], "tcp:127.0.0.1:0-:22");
            assert_eq!((&new["type"], &new["id"]), (&"user".into(), &"n".into()));
        }
        for other in ["{", "{}", "{\"hostfwd\":1}", "{'hostfwd':[{}]}", "user,id=n"] {
            assert_eq!(rewrite(other, &mut Hostfwd::from_loopback), None, "{other}");
        }
        assert_eq!(double_quoted(r#"{'a"\'b': "c'd\""}"#), r#"{"a\"'b": "c'd\""}"#);
    }
}
