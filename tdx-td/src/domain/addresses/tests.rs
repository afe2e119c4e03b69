use std::net::IpAddr;

use super::agent::Interface;
use super::guest::MOST;
use super::seen::arp_entry;
use super::*;

const MAC: &str = "52:54:00:aa:bb:cc";

fn guest<'h>(this_host: &'h ThisHost, macs: &[&str]) -> GuestAddresses<'h> {
    let macs: Vec<String> = macs.iter().map(|mac| (*mac).to_owned()).collect();
    GuestAddresses::new(this_host, &macs)
}

fn this_host(addresses: &[&str]) -> ThisHost {
    addresses.iter().map(|ip| ip.parse::<IpAddr>().unwrap()).collect()
}

/// Returns an agent's answer with interfaces of a name, a MAC address and IP addresses.
fn report(interfaces: &[(&str, &str, &[&str])]) -> Vec<Interface> {
    let interface = |(name, mac, ips): &(&str, &str, &[&str])| {
        let ips: Vec<_> = ips.iter().map(|ip| serde_json::json!({"ip-address": ip})).collect();
        serde_json::json!({"name": name, "hardware-address": mac, "ip-addresses": ips})
    };
    let interfaces: Vec<_> = interfaces.iter().map(interface).collect();
    agent::interfaces(&serde_json::json!({ "return": interfaces }).to_string())
}

fn own(guest: &GuestAddresses<'_>) -> Vec<String> {
    guest.own.iter().map(ToString::to_string).collect()
}

fn other(guest: &GuestAddresses<'_>) -> Vec<String> {
    guest.other.iter().map(|other| other.address.clone()).collect()
}

#[test]
fn arp_table_is_parsed() {
    let line = "192.168.122.5    0x1         0x2         52:54:00:AA:bb:cc     *        virbr0";
    assert_eq!(arp_entry(line), Some(("52:54:00:AA:bb:cc", "192.168.122.5")));
    assert_eq!(arp_entry("192.168.122.5 0x1 0x0 00:00:00:00:00:00 * virbr0"), None);
    assert_eq!(arp_entry(""), None);
}

#[test]
fn report_of_a_bridge_before_the_card_lists_the_bridge_apart() {
    let host = this_host(&[]);
    let mut guest = guest(&host, &["52:54:00:AA:BB:CC", MAC]);
    guest.add_report(&report(&[
        ("lo", "00:00:00:00:00:00", &["127.0.0.1", "::1"]),
        ("docker0", "02:42:ac:11:00:01", &["172.17.0.1"]),
        ("eth0", "52-54-00-AA-BB-CC", &["10.0.0.5", "fe80::1", "2001:db8::5", "10.0.0.5"]),
        ("eth0.7", MAC, &["10.7.0.5"]),
        ("tun0", "", &["10.8.0.2"]),
    ]));
    assert_eq!(own(&guest), ["10.0.0.5", "2001:db8::5", "10.7.0.5"]);
    let docker = OtherAddress {
        address: "172.17.0.1".to_owned(),
        interface: Some("docker0".to_owned()),
        mac: Some("02:42:ac:11:00:01".to_owned()),
    };
    let tunnel = OtherAddress {
        address: "10.8.0.2".to_owned(),
        interface: Some("tun0".to_owned()),
        mac: None,
    };
    assert_eq!(guest.other, [docker, tunnel]);
}

#[test]
fn address_of_the_host_is_never_a_guests_own() {
    let host = this_host(&["172.17.0.1", "192.168.122.1", "::ffff:10.0.0.9"]);
    let mut seen = SeenAddresses::default();
    for ip in ["192.168.122.1", "192.168.122.9", "127.0.0.1", "not an address"] {
        seen.add("52:54:00:AA:BB:CC", ip);
    }
    let mut guest = guest(&host, &[MAC]);
    guest.add_seen(&seen);
    guest.add_report(&report(&[("eth0", MAC, &["172.17.0.1", "10.0.0.9", "::ffff:172.17.0.1"])]));
    assert_eq!(own(&guest), ["192.168.122.9"]);
    assert_eq!(other(&guest), ["192.168.122.1", "172.17.0.1", "10.0.0.9"]);
}

#[test]
fn addresses_that_reach_no_guest_are_in_no_list() {
    let host = this_host(&[]);
    let mut guest = guest(&host, &[MAC]);
    let ips = [
        "127.0.0.1",
        "127.9.9.9",
        "::1",
        "::ffff:127.0.0.1",
        "0.0.0.0",
        "0.1.2.3",
        "::",
        "::ffff:0.0.0.0",
        "169.254.1.1",
        "::ffff:169.254.1.1",
        "fe80::1",
        "fe80::1%eth0",
        "224.0.0.1",
        "ff02::1",
        "255.255.255.255",
        "010.0.0.1",
        "0x7f.1",
        "2130706433",
        "localhost",
        "-oX",
        "",
        "10.0.0.1%eth0",
        "10.0.0.1:22",
    ];
    guest.add_report(&report(&[("eth0", MAC, &ips), ("br0", "02:00:00:00:00:01", &ips)]));
    assert_eq!((own(&guest), other(&guest)), (vec![], vec![]));
}

#[test]
fn hardware_address_of_zeros_matches_nothing() {
    let host = this_host(&[]);
    let mut guest = guest(&host, &["00:00:00:00:00:00", "no mac"]);
    guest.add_report(&report(&[("wg0", "00:00:00:00:00:00", &["10.8.0.2"])]));
    guest.add_report(&report(&[("x", "no mac", &["10.8.0.3"])]));
    assert!(!guest.has_cards() && own(&guest).is_empty());
    assert_eq!(other(&guest), ["10.8.0.2", "10.8.0.3"]);
}

#[test]
fn report_of_ten_thousand_interfaces_keeps_the_card_and_a_bounded_rest() {
    let host = this_host(&[]);
    let name = format!("\u{1b}[2J{}", "x".repeat(10_000));
    let mut interfaces = Vec::new();
    for n in 0..10_000_u32 {
        let ip = std::net::Ipv4Addr::from(0x0a00_0001 + n).to_string();
        interfaces.push(serde_json::json!({
            "name": name.get(..if n == 0 { name.len() } else { 6 }), "hardware-address": "02:00:00:00:00:01",
            "ip-addresses": [{"ip-address": ip, "ip-address-type": "ipv4", "prefix": 1e300}],
        }));
    }
    interfaces.push(serde_json::json!({
        "name": "eth0", "hardware-address": MAC, "ip-addresses": [{"ip-address": "192.0.2.5"}],
    }));
    let answer = serde_json::json!({ "return": interfaces }).to_string();
    let mut guest = guest(&host, &[MAC]);
    guest.add_report(&agent::interfaces(&answer));
    assert_eq!(own(&guest), ["192.0.2.5"]);
    assert_eq!(guest.other.len(), MOST);
    let name = guest.other[0].interface.as_ref().unwrap();
    assert!(name.starts_with("?[2Jx") && name.len() == 64, "{name:?}");
}

#[test]
fn answers_that_are_not_of_the_protocol_report_nothing() {
    let deep = format!("{{\"return\":{}", "[".repeat(100_000));
    for answer in [
        "",
        "not json",
        "[]",
        "{}",
        "null",
        r#"{"return":null}"#,
        r#"{"return":{}}"#,
        r#"{"return":[1]}"#,
        r#"{"return":[{"name":1}]}"#,
        r#"{"return":[{"name":"a","ip-addresses":{}}]}"#,
        r#"{"return":[{"name":"a","ip-addresses":[7]}]}"#,
        r#"{"error":{"class":"x"}}"#,
        r#"{"return":[{"name":"a","hardware-address":5,"ip-addresses":[{"ip-address":"10.0.0.1"}]}]}"#,
        &deep,
    ] {
        assert!(agent::interfaces(answer).is_empty(), "{}", &answer[..answer.len().min(60)]);
    }
    // Optional fields of the protocol may be absent or null.
    let sparse =
        r#"{"return":[{"name":"a"},{"name":"b","ip-addresses":null,"hardware-address":null}]}"#;
    assert_eq!(agent::interfaces(sparse).len(), 2);
}
