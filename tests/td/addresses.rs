//! The addresses of a guest that `tdx-td` accepts, if the guest's agent reports arbitrary addresses.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use serde_json::{Value, json};

use crate::support::disk::Console;
use crate::support::rig::Rig;
use crate::support::td::{define, foreign, listed, new, rig_for_booted_guests, rig_with_base, td};
use crate::support::wait::wait_for;

/// A network of the host whose guests get no lease from it.
const LAN: &str = "<network><name>lan</name><bridge name='virbr7'/><dns enable='no'/>\
    <ip address='10.9.9.1' netmask='255.255.255.0'/></network>";

/// A guest agent as a shell script. The disk begins with a mode and the length of the answer in blocks; the
/// answer begins at the third block. In mode `mute` the agent answers nothing.
const AGENT: &str = r#"
exec 3<>$(echo /dev/vport*)
echo agent: up >/dev/console
while :; do
    IFS= read -r line <&3 || { usleep 50000; continue; }
    echo 1 >/proc/sys/vm/drop_caches
    read -r mode length </dev/vdb
    [ "$mode" != mute ] || continue
    id=${line##*\"id\":} id=${id%%[!0-9]*}
    case $line in
    *guest-sync-delimited*) printf '\377{"return":%s}\n' $id >&3 ;;
    *guest-sync*) printf '{"return":%s}\n' $id >&3 ;;
    *guest-network-get-interfaces*)
        dd if=/dev/vdb bs=4096 skip=2 count=$length >&3 2>/dev/null
        echo >&3 ;;
    *) echo '{"return":{}}' >&3 ;;
    esac
done
"#;

/// A guest with this agent.
struct Guest {
    console: Console,
    disk: PathBuf,
    mac: String,
    rig: Rig,
}

impl Guest {
    fn start() -> Self {
        let rig = rig_for_booted_guests();
        std::fs::write(rig.scratch().join("lan.xml"), LAN).unwrap();
        rig.virsh(["net-define", "lan.xml"]);
        rig.virsh(["net-start", "lan"]);
        let disk = rig.scratch().join("agent.raw");
        File::create(&disk).unwrap().set_len(16 << 20).unwrap();
        std::fs::set_permissions(&disk, std::os::unix::fs::PermissionsExt::from_mode(0o666))
            .unwrap();
        new(&rig, "--name g --network lan --hotplug-ports 1").item();
        let console = Console::open(&rig, "g");
        let mac = rig.shell("virsh dumpxml g | grep -o '52:54:00:[0-9a-f:]*'");
        let guest = Self { mac: mac.text().trim().to_owned(), disk, rig, console };
        guest.write(4096, format!("{AGENT:\n<4096}").as_bytes());
        guest.say("answer", "{}");
        let attach = format!("virsh attach-disk g {} vdb --subdriver raw", guest.disk.display());
        guest.console.wait_for("rig-guest: up");
        guest.rig.shell(&attach).text();
        let run = "until [ -b /dev/vdb ]; do usleep 50000; done; \
            dd if=/dev/vdb of=/agent bs=4096 skip=1 count=1; (sh /agent &)";
        guest.console.run(&guest.rig, run);
        guest.console.wait_for("agent: up");
        wait_for("the agent's connection", || {
            guest.rig.virsh(["dumpxml", "g"]).contains("state='connected'").then_some(())
        });
        guest
    }

    fn write(&self, offset: u64, bytes: &[u8]) {
        File::options().write(true).open(&self.disk).unwrap().write_all_at(bytes, offset).unwrap();
    }

    /// Sets what the agent answers from now on.
    fn say(&self, mode: &str, answer: &str) {
        let length = answer.len().div_ceil(4096);
        let mut blocks = answer.as_bytes().to_vec();
        blocks.resize(length * 4096, b' ');
        self.write(8192, &blocks);
        self.write(0, format!("{mode} {length}\n").as_bytes());
    }

    /// Makes the agent report these interfaces: name, MAC address and IP address of each.
    fn report<'a>(&self, interfaces: impl IntoIterator<Item = (&'a str, &'a str, &'a str)>) {
        let interfaces = interfaces.into_iter().map(|(name, mac, ip)| {
            let ip = json!({"ip-address-type": "ipv4", "ip-address": ip, "prefix": 24});
            json!({"name": name, "hardware-address": mac, "ip-addresses": [ip]})
        });
        let answer = json!({ "return": interfaces.collect::<Vec<Value>>() });
        self.say("answer", &answer.to_string());
    }

    /// Waits until `list` and `show` agree on this address, or none, and on these other addresses. On a busy
    /// machine the agent may answer after the commands have stopped waiting.
    #[track_caller]
    fn expect(&self, ip: Option<&str>, other: &[&str]) {
        let ips: Vec<&str> = ip.into_iter().collect();
        wait_for(&format!("{ip:?} and {other:?}"), || {
            let items = [listed(&self.rig, "g"), td(&self.rig, "show g").item()];
            let is_there = |item: &Value| {
                let known = item["other_addresses"].as_array().unwrap().iter();
                let known: Vec<&str> = known.map(|o| o["address"].as_str().unwrap()).collect();
                // The commands never show an unexpected address, not even while the test waits.
                let is_expected = |ip: &Value| ips.iter().any(|expected| ip == expected);
                assert!(item["ips"].as_array().unwrap().iter().all(is_expected), "{item:#}");
                assert!(item["ssh"].is_null() || item["ssh"]["host"] == json!(ip), "{item:#}");
                item["ip"] == json!(ip) && item["ips"] == json!(ips) && known == other
            };
            items.iter().all(is_there).then_some(())
        });
    }
}

#[test]
#[ignore = "needs root"]
fn only_addresses_of_the_defined_network_cards_belong_to_the_guest() {
    let guest = Guest::start();
    let mac = guest.mac.as_str();
    let upper = mac.to_uppercase();
    let (docker, bridge) = (("docker0", "02:42:ac:11:00:01", "172.17.0.1"), ["172.17.0.1"]);

    // A bridge comes before the network card: only the address of the card counts, also
    // for new --wait ip.
    guest.report([("lo", "00:00:00:00:00:00", "127.0.0.1"), docker, ("eth0", &upper, "10.9.9.5")]);
    guest.expect(Some("10.9.9.5"), &bridge);
    let again = "--name g --network lan --hotplug-ports 1 --wait ip --timeout";
    let waited = new(&guest.rig, &format!("{again} 60")).item();
    assert_eq!((&waited["action"], &waited["ip"]), (&json!("none"), &json!("10.9.9.5")));
    let named = json!({"address": docker.2, "interface": docker.0, "mac": docker.1});
    assert_eq!(waited["other_addresses"], json!([named]));

    // Addresses with the MAC address of the card that belong to this host or reach no guest.
    let nobody =
        ["127.0.0.1", "::ffff:127.0.0.1", "::1", "0.0.0.0", "224.0.0.1", "255.255.255.255"];
    let nobody = nobody.iter().chain(&["fe80::1%lo", "169.254.0.1", "-oProxyCommand=x"]);
    let host = ["10.9.9.1", "192.168.122.1", "::ffff:10.9.9.1"].map(|ip| ("eth0", mac, ip));
    guest.report(nobody.map(|ip| ("eth0", mac, *ip)).chain(host));
    guest.expect(None, &["10.9.9.1", "192.168.122.1"]);
    guest.report([docker]);
    guest.expect(None, &bridge);
    new(&guest.rig, &format!("{again} 3")).error(1);

    // Ten thousand interfaces come before the network card.
    let name = |n: u32| (format!("veth{n}"), std::net::Ipv4Addr::from(0x0a00_0001 + n).to_string());
    let many: Vec<_> = (0..10_000).map(name).collect();
    let veths = many.iter().map(|(name, ip)| (name.as_str(), docker.1, ip.as_str()));
    guest.report(veths.chain([("eth0", mac, "10.9.9.5")]));
    let listed: Vec<_> = many.iter().take(256).map(|(_, ip)| ip.as_str()).collect();
    guest.expect(Some("10.9.9.5"), &listed);
}

#[test]
#[ignore = "needs root"]
fn invalid_agent_answers_yield_no_address_and_delay_no_command() {
    let guest = Guest::start();
    for answer in [
        r#"{"return":"all"}"#,
        r#"{"return":[{"name":1,"ip-addresses":[{"ip-address":"10.9.9.5"}]}]}"#,
        r#"{"error":{"class":"CommandNotFound","desc":"no"}}"#,
        "}{",
    ] {
        guest.say("answer", answer);
        guest.expect(None, &[]);
    }
    // The agent does not answer. Then another command waits for the agent, so that libvirt waits thirty
    // seconds.
    guest.say("mute", "");
    guest.expect(None, &[]);
    let hanging = "virsh qemu-agent-command g --block '{\"execute\":\"guest-ping\"}' >&2 & \
        timeout 25 tdx-td list && timeout 25 tdx-td show g";
    let both = guest.rig.shell(hanging);
    assert_eq!(both.text().lines().count(), 2, "{both:#?}");
    // The answer has twelve megabytes; libvirt accepts ten.
    guest.say("answer", &format!("{{\"return\":[]{}}}", " ".repeat(12 << 20)));
    guest.expect(None, &[]);
}

#[test]
#[ignore = "needs root"]
fn ssh_refuses_an_address_that_ssh_would_parse_as_an_option() {
    let rig = Rig::start();
    define(&rig, &foreign("off", ""));
    for address in ["-oProxyCommand=touch${IFS}x", "user@host", "10.0.0.5:22", "a b", ""] {
        let line = ["ssh", "off", &format!("--address={address}")].map(str::to_owned);
        rig.tool("tdx-td", line).error(2);
    }
    let error = td(&rig, "ssh off --address 10.0.0.5").error(5);
    assert_eq!(error["message"], "domain 'off' is shut off");
}

#[test]
#[ignore = "needs root"]
fn ssh_from_another_host_refuses_a_port_on_the_loopback_of_the_guests_host() {
    let rig = rig_with_base();
    let forwarded = new(&rig, "--name g --ssh-port auto").item();
    assert_eq!(forwarded["ssh"]["host"], "127.0.0.1");
    let from = |host: &str, verb: &str| {
        let remote = format!("tdx-td -c qemu+tcp://127.0.0.1/system {verb}");
        rig.shell(&format!("unshare --uts sh -c 'hostname {host} && exec {remote}'"))
    };
    let wait = "new -i guest.qcow2 --security none --memory 256M --vcpus 1 --name g --ssh-port auto \
        --wait ssh --timeout 5";
    for verb in ["ssh g", wait] {
        let error = from("elsewhere", verb).error(6);
        let message = error["message"].as_str().unwrap();
        assert!(message.contains("only from its own host 'rig'"), "{error}");
        assert_eq!(error["hint"], "ssh -t rig tdx-td ssh g");
    }
    // A remote URI of the guest's own host is local: the port is accepted, but nothing answers there yet.
    from("RIG", wait).error(1);
}
