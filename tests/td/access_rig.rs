//! Logging in to a real Debian guest, with the user that its cloud-init seed creates.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;

use serde_json::json;

use crate::support::rig::{self, Rig, debian_image};

/// One guest for all checks, because it takes half a minute to boot.
#[test]
#[ignore = "needs root"]
fn a_seed_lets_only_its_user_log_in() {
    let rig = Rig::start_for_booted_guests();
    rig.tool("tdx-pool", ["import".as_ref(), debian_image().as_os_str()]).document();
    let before = rig.state();
    rig.shell("ssh-keygen -q -t ed25519 -N '' -f id").text();
    let password = rig.scratch().join("password");
    fs::write(&password, "S3cret: #x 'and \"more\n").unwrap();
    fs::set_permissions(&password, Permissions::from_mode(0o600)).unwrap();

    let new = "tdx-td new -i debian.qcow2 --security none --virt-type qemu --memory 512M --vcpus 2 \
        --name web1 --user tdx --ssh-key id.pub --password-file password --hostname web1.example";
    let made = rig.shell(&format!("{new} --wait ssh --timeout 240"));
    assert_eq!(made.item()["ssh"]["port"], 22);
    assert!(!made.stdout.contains("S3cret") && !made.stdout.contains("$6$"), "{made:#?}");

    let ssh = |command: &str| {
        let options = "export HOME=$PWD; mkdir -p -m 700 .ssh";
        let run = rig.shell(&format!("{options}; tdx-td ssh -i id web1 -- {command}"));
        run.text().trim().to_owned()
    };
    assert_eq!(ssh("id -un"), "tdx");
    assert_eq!(ssh("hostname"), "web1");
    assert_eq!(ssh("sudo id -u"), "0");
    // The guest's own crypt(3) accepts this password and no other.
    let check = "import crypt, sys, subprocess; \
        h = subprocess.getoutput('sudo getent shadow tdx').split(':')[1]; \
        print(*[crypt.crypt(p, h) == h for p in sys.stdin.read().splitlines()])";
    fs::write(rig.scratch().join("check.py"), check).unwrap();
    fs::write(rig.scratch().join("tries"), "S3cret: #x 'and \"more\nS3cret\n").unwrap();
    assert_eq!(ssh("tee check.py <check.py >/dev/null"), "");
    assert_eq!(ssh("python3 check.py <tries"), "True False");
    // The command returns ssh's own exit status.
    let failed = rig.shell("export HOME=$PWD; tdx-td ssh -i id web1 -- exit 7");
    assert_eq!(failed.status, Some(7), "{failed:#?}");

    let again = rig.shell(&format!("{new} --wait agent --timeout 60")).document();
    assert_eq!(again["changed"], false);
    assert!(rig.tool("tdx-td", ["show", "web1"]).item()["ip"].is_string());

    // Only QEMU can read the seed, and the seed is deleted with the domain.
    let seeds = "stat -c '%a %U' /var/lib/libvirt/images/cidata.*";
    assert_eq!(rig.shell(seeds).text(), "600 libvirt-qemu\n");
    let gone = rig.tool("tdx-td", ["delete", "web1", "--yes"]).item();
    assert_eq!((&gone["forced"], gone["deleted"].as_array().unwrap().len()), (&false.into(), 2));
    assert_eq!(rig.state(), before);
}

/// A guest that is not ready in time is kept or deleted, as the user requests.
#[test]
#[ignore = "needs root"]
fn new_keeps_or_deletes_a_guest_that_is_not_ready_in_time() {
    let rig = Rig::start_for_booted_guests();
    let image = rig::guest_image(false);
    rig.tool("tdx-pool", ["import".as_ref(), image.as_os_str()]).document();
    let before = rig.state();
    let new = "tdx-td new -i guest.qcow2 --security none --virt-type qemu --memory 256M --vcpus 1 \
        --name web1 --wait agent --timeout 1";
    let error = rig.shell(&format!("{new} --on-timeout delete")).error(1);
    assert!(error["message"].as_str().unwrap().contains("agent"), "{error}");
    assert_eq!(rig.state(), before);
    rig.shell(new).error(1);
    assert_eq!(rig.shell("tdx-td list --format name").text(), "web1\n");
    rig.tool("tdx-td", ["delete", "web1", "--yes", "--timeout", "0"]).document();
    assert_eq!(rig.state(), before);
}

/// The network has no DHCP, the guest has Docker's bridge before its own network card, and the host has
/// Docker's address as well. Only the guest's agent knows the address of the guest.
#[test]
#[ignore = "needs root"]
fn ssh_reaches_the_guests_own_card_and_not_the_hosts_docker_bridge() {
    let rig = Rig::start_for_booted_guests();
    rig.tool("tdx-pool", ["import".as_ref(), debian_image().as_os_str()]).document();
    rig.shell(
        "for bridge in br9=10.9.9.1/24 docker0=172.17.0.1/16; do \
           ip link add ${bridge%=*} type bridge && ip addr add ${bridge#*=} dev ${bridge%=*} && \
           ip link set ${bridge%=*} up || exit; done",
    )
    .text();
    let lan = "<network><name>lan</name><forward mode='bridge'/><bridge name='br9'/></network>";
    fs::write(rig.scratch().join("lan.xml"), lan).unwrap();
    rig.virsh(["net-define", "lan.xml"]);
    rig.virsh(["net-start", "lan"]);
    rig.shell("ssh-keygen -q -t ed25519 -N '' -f id && mkdir seed").text();
    let key = fs::read_to_string(rig.scratch().join("id.pub")).unwrap();
    let card = "[Match]\\nName=e*\\n[Network]\\nAddress=10.9.9.5/24\\n";
    let user_data = format!(
        "#cloud-config\nusers:\n- {{name: tdx, ssh_authorized_keys: ['{}']}}\nruncmd:\n\
         - printf '{card}' >/etc/systemd/network/05-lan.network\n\
         - modprobe -r virtio_net\n- ip link add docker0 type bridge\n\
         - ip addr add 172.17.0.1/16 dev docker0\n- ip link set docker0 up\n\
         - modprobe virtio_net\n- networkctl reload\n",
        key.trim()
    );
    fs::write(rig.scratch().join("seed/user-data"), user_data).unwrap();

    let new = "tdx-td new -i debian.qcow2 --security none --virt-type qemu --memory 512M --vcpus 2 \
        --name web1 --cloud-init seed --network lan --timeout 240 --wait";
    let waited = rig.shell(&format!("{new} ip")).item();
    assert_eq!((&waited["ip"], &waited["ips"]), (&json!("10.9.9.5"), &json!(["10.9.9.5"])));
    let bridge = &waited["other_addresses"][0];
    assert_eq!(
        (&bridge["address"], &bridge["interface"]),
        (&json!("172.17.0.1"), &json!("docker0"))
    );
    assert_eq!(rig.shell(&format!("{new} ssh")).item()["ssh"]["host"], "10.9.9.5");
    for verb in ["list", "show web1"] {
        let item = rig.shell(&format!("tdx-td {verb}")).item();
        assert_eq!(item["ips"], json!(["10.9.9.5"]), "{verb}: {item:#}");
    }
    let ssh = |more: &str| {
        rig.shell(&format!(
            "export HOME=$PWD; mkdir -p -m 700 .ssh; tdx-td ssh -i id -l tdx web1 {more} -- id -un"
        ))
    };
    assert_eq!(ssh("").text(), "tdx\n");
    assert_eq!(ssh("--address 10.9.9.5").text(), "tdx\n");
    // This address belongs to the host, where no SSH server runs.
    let refused = ssh("--address 172.17.0.1");
    assert_eq!(refused.status, Some(255), "{refused:#?}");
    assert!(refused.stderr.contains("172.17.0.1 port 22"), "{refused:#?}");
}
