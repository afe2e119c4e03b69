//! Tests of parsing definitions.

use common::libvirt::State;

use crate::domain::definition::*;
use crate::domain::item::Ssh;

fn parse(inside: &str) -> Definition {
    let xml = format!(
        "<domain xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>{inside}</domain>"
    );
    Definition::parse(xml).unwrap()
}

fn ssh(host: &str, port: u16) -> SshForward {
    SshForward::To(Ssh { host: host.to_owned(), port })
}

#[test]
fn ssh_forward_returns_the_forwarded_port() {
    let passt = |ranges: &str| {
        parse(&format!(
            "<devices><interface type='user'><backend type='passt'/>\
             <portForward proto='udp'><range start='22'/></portForward>\
             <portForward proto='tcp' address='10.0.0.1'>{ranges}</portForward>\
             </interface></devices>"
        ))
        .ssh_forward()
    };
    assert_eq!(passt("<range start='22'/>"), ssh("10.0.0.1", 22));
    assert_eq!(passt("<range start='80'/><range start='2222' to='22'/>"), ssh("10.0.0.1", 2222));
    assert_eq!(passt("<range start='2000' end='2010' to='20'/>"), ssh("10.0.0.1", 2002));
    assert_eq!(passt("<range start='2000' end='2001' to='20'/>"), SshForward::None);
    assert_eq!(passt("<range start='22' exclude='yes'/>"), SshForward::None);
    assert_eq!(passt("<range start='x'/>"), SshForward::None);
}

#[test]
fn ssh_forward_reads_raw_arguments_of_the_original() {
    let slirp = |forward: &str| {
        parse(&format!(
            "<qemu:commandline><qemu:arg value='-netdev'/>\
             <qemu:arg value='user,id=nic,hostfwd={forward}'/></qemu:commandline>"
        ))
        .ssh_forward()
    };
    assert_eq!(slirp("tcp::0-:22"), SshForward::Ephemeral);
    assert_eq!(slirp("tcp::10022-:22"), ssh("127.0.0.1", 10022));
    assert_eq!(slirp("tcp:10.1.2.3:10022-10.0.2.15:22"), ssh("10.1.2.3", 10022));
    assert_eq!(slirp("tcp::8080-:80"), SshForward::None);
    assert_eq!(slirp("udp::22-:22"), SshForward::None);
}

#[test]
fn host_ports_returns_all_forwarded_ports() {
    let ports = parse(
        "<devices><interface><portForward proto='tcp'><range start='80' end='82'/>\
         <range start='2201' to='22'/></portForward></interface></devices>\
         <qemu:commandline><qemu:arg value='user,id=n,hostfwd=tcp:127.0.0.1:2202-:22,\
         hostfwd=tcp::0-:80'/></qemu:commandline>",
    )
    .host_ports();
    let here = "127.0.0.1".parse().ok();
    let all = [80, 81, 82, 2201].map(|port| (None, port));
    assert_eq!(ports, [&all[..], &[(here, 2202)]].concat());
}

#[test]
fn hostdev_addresses_are_parsed_in_every_base() {
    let hostdev = |attributes: &str| {
        let xml = format!(
            "<devices><hostdev mode='subsystem' type='pci'><source>\
             <address {attributes}/></source></hostdev></devices>"
        );
        let item = parse(&xml).item(None, State::Off, false);
        item.hostdevs.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(hostdev("domain='0x0010' bus='0xb8' slot='0x1f' function='0x7'"), ["0010:b8:1f.7"]);
    assert_eq!(hostdev("bus='23' slot='0' function='0'"), ["0000:17:00.0"]);
    assert_eq!(hostdev("bus='027' slot='010' function='07'"), ["0000:17:08.7"]);
    assert_eq!(hostdev("bus='many' slot='0' function='0'"), Vec::<String>::new());
}

#[test]
fn macs_skips_cards_of_user_networks() {
    let definition = parse(
        "<devices><interface type='user'><mac address='52:54:00:00:00:01'/></interface>\
         <interface type='network'><mac address='52:54:00:00:00:02'/></interface>\
         <interface type='hostdev'><mac address='52:54:00:00:00:03'/></interface>\
         <interface type='bridge'/></devices>",
    );
    assert_eq!(definition.macs(), ["52:54:00:00:00:02", "52:54:00:00:00:03"]);
}

#[test]
fn has_agent_is_true_only_for_a_connected_agent() {
    let channel = |target: &str| {
        parse(&format!("<devices><channel><target {target}/></channel></devices>")).has_agent()
    };
    assert!(channel("name='org.qemu.guest_agent.0' state='connected'"));
    assert!(!channel("name='org.qemu.guest_agent.0' state='disconnected'"));
    assert!(!channel("name='org.qemu.guest_agent.0'"));
    assert!(!channel("name='com.redhat.spice.0' state='connected'"));
}

#[test]
fn is_managed_needs_a_record_or_names_of_the_original() {
    let disk = "<devices><disk><source file='/x//overlay.abcDEF012345678.qcow2'/></disk></devices>";
    let managed = |inside: &str| parse(inside).is_managed();
    assert!(managed(&format!("<name>tdvirsh-trust_domain-1</name>{disk}")));
    assert!(!managed(&format!("<name>my-tdvirsh-lab</name>{disk}")));
    assert!(!managed("<name>tdvirsh-lab</name>"));
}

#[test]
fn security_distinguishes_all_kinds() {
    let security = |xml: &str| parse(xml).item(None, State::Off, false).security;
    assert_eq!(security(""), "none");
    assert_eq!(security("<launchSecurity type='tdx'/>"), "tdx");
    assert_eq!(
        security("<launchSecurity type='sev-snp'><policy>0x30000</policy></launchSecurity>"),
        "sev-snp"
    );
    assert_eq!(
        security("<launchSecurity type='sev'><policy>0x0007</policy></launchSecurity>"),
        "sev-es"
    );
    assert_eq!(
        security("<launchSecurity type='sev'><policy>0x0003</policy></launchSecurity>"),
        "sev"
    );
}
