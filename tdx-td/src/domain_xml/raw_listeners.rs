//! Raw arguments for QEMU that open a port on every address of the host, other than `hostfwd`.
//!
//! Source: qemu(1): "Debug/Expert options", "Character device options", "Display options", "Network options".

use common::xml::{Document, Node};

use crate::domain_xml::address::is_every_address;

/// Returns the arguments that open a port, each with the option and its operand.
pub fn find(document: &Document) -> Vec<(Node<'_>, String)> {
    let nodes = document.root().descendants().filter(|node| node.local_name() == "arg");
    let arguments: Vec<(Node<'_>, String)> =
        nodes.filter_map(|node| Some((node, node.attr("value")?.into_owned()))).collect();
    let mut found = Vec::new();
    for (at, (node, value)) in arguments.iter().enumerate() {
        let next = arguments.get(at + 1);
        let option = value.strip_prefix('-').map(|option| option.trim_start_matches('-'));
        match (option, next) {
            (Some("s"), _) => found.push((*node, value.clone())),
            (Some(option), Some((node, operand))) if listens(option, operand) => {
                found.push((*node, format!("-{option} {operand}")));
            }
            _ => {}
        }
    }
    found
}

fn listens(option: &str, operand: &str) -> bool {
    match option {
        "vnc" => is_open_display(operand),
        "gdb" => is_open_stream(operand, true),
        "serial" | "parallel" | "monitor" | "qmp" | "qmp-pretty" | "debugcon" => {
            is_open_stream(operand, false)
        }
        "incoming" => is_open_stream(operand, true),
        "chardev" | "netdev" | "net" | "nic" => is_open_socket(operand),
        "spice" => {
            let has_port = ["port", "tls-port"].iter().any(|key| value(operand, key).is_some());
            has_port && is_open_host(value(operand, "addr").unwrap_or_default())
        }
        _ => false,
    }
}

fn is_open_host(host: &str) -> bool {
    host.is_empty() || is_every_address(host)
}

/// Whether `[HOST]:DISPLAY[,OPTION...]` listens on every address.
fn is_open_display(operand: &str) -> bool {
    let first = operand.split(',').next().unwrap_or_default();
    match first.rsplit_once(':') {
        Some((host, display)) if display.chars().all(|c| c.is_ascii_digit()) => is_open_host(host),
        _ => false,
    }
}

/// Whether `tcp:[HOST]:PORT[,server=on]`, or that of telnet or websocket, listens on every address. With
/// `listening`, `server` is implied.
fn is_open_stream(operand: &str, listening: bool) -> bool {
    let first = operand.split(',').next().unwrap_or_default();
    let Some((protocol, address)) = first.split_once(':') else {
        return false;
    };
    let serves = listening || is_on(operand, "server");
    let known = ["tcp", "telnet", "websocket"].contains(&protocol);
    known && serves && address.rsplit_once(':').is_some_and(|(host, _)| is_open_host(host))
}

/// Whether the socket of a character device or of a network backend listens on every address.
fn is_open_socket(operand: &str) -> bool {
    let kind = operand.split(',').next().unwrap_or_default();
    let host = value(operand, "addr.host").or(value(operand, "host"));
    match kind {
        "socket" if value(operand, "path").is_some() => false,
        "socket" => match value(operand, "listen") {
            Some(listen) => {
                is_open_host(listen.rsplit_once(':').map_or("", |(address, _)| address))
            }
            None => is_on(operand, "server") && is_open_host(host.unwrap_or_default()),
        },
        "stream" => {
            value(operand, "addr.type") == Some("inet")
                && is_on(operand, "server")
                && is_open_host(host.unwrap_or_default())
        }
        _ => false,
    }
}

fn value<'a>(operand: &'a str, key: &str) -> Option<&'a str> {
    operand.split(',').find_map(|part| part.strip_prefix(key)?.strip_prefix('='))
}

/// Whether a switch is on: by its name alone, which QEMU before 6.0 accepts, or by its value.
fn is_on(operand: &str, key: &str) -> bool {
    let bare = operand.split(',').skip(1).any(|part| part == key);
    bare || value(operand, key).is_some_and(|value| !matches!(value, "off" | "no" | "false" | "n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(arguments: &[&str]) -> usize {
        let arguments: String =
            arguments.iter().map(|value| format!("<qemu:arg value='{value}'/>")).collect();
        let text = format!("<domain xmlns:qemu='urn:q'>{arguments}</domain>");
        find(&Document::parse(text).unwrap()).len()
    }

    #[test]
    fn find_returns_arguments_that_listen_on_every_address() {
        for open in [
            &["-vnc", ":1"][..],
            &["--vnc", "0.0.0.0:1,password=on"],
            &["-s"],
            &["-gdb", "tcp::1234"],
            &["-serial", "tcp::4444,server=on,wait=off"],
            &["-monitor", "telnet:0.0.0.0:4444,server,nowait"],
            &["-qmp", "tcp:[::]:4444,server"],
            &["-chardev", "socket,id=c,host=0.0.0.0,port=1,server=on"],
            &["-chardev", "socket,id=c,port=1,server"],
            &["-netdev", "socket,id=n,listen=:1234"],
            &["-netdev", "stream,id=n,server=on,addr.type=inet,addr.host=0,addr.port=1"],
            &["-spice", "port=5900,disable-ticketing=on"],
            &["-incoming", "tcp:0:4444"],
        ] {
            assert_eq!(found(open), 1, "{open:?}");
        }
        for closed in [
            &["-vnc", "127.0.0.1:1"][..],
            &["-vnc", "unix:/run/vnc"],
            &["-vnc", "none"],
            &["-device", ":1"],
            &["-gdb", "tcp:127.0.0.1:1234"],
            &["-serial", "tcp:0.0.0.0:4444"],
            &["-serial", "mon:stdio"],
            &["-chardev", "socket,id=c,path=/run/x,server=on"],
            &["-chardev", "socket,id=c,host=0.0.0.0,port=1,server=off"],
            &["-netdev", "user,id=n,hostfwd=tcp::1-:22"],
            &["-netdev", "socket,id=n,listen=127.0.0.1:1234"],
            &["-spice", "unix=on,addr=/run/x"],
            &["-spice", "port=5900,addr=127.0.0.1"],
        ] {
            assert_eq!(found(closed), 0, "{closed:?}");
        }
    }
}
