//! `tdx-td new` and `render` with a user's template, and with a port of the host for ssh.

use std::fs;

use serde_json::json;

use crate::support::rig::Rig;
use crate::support::td::{self, listed, new, rig_with_base, td};
use crate::support::template::{CANONICAL, emulated, emulated_original, without};
use crate::support::tools;

fn from_template(rig: &Rig, template: &str, more: &str) -> tools::Run {
    td(rig, &format!("new -i guest.qcow2 -t {template} --memory 256M --vcpus 1{more}"))
}

/// Extends libvirt's schema by the elements of Canonical's preview, in this rig alone.
fn pretend_preview(rig: &Rig) {
    let schemas = "/usr/share/libvirt/schemas";
    let known = "<optional><element name=\"allowReboot\"><attribute name=\"value\"/><empty/></element></optional>";
    let socket = "<define name=\"quoteSocketAddress\"><element name=\"SocketAddress\"><empty/></element></define>";
    rig.shell(&format!(
        "cp -r {schemas} schemas && cd schemas && \
         sed -i 's|<define name=\"launchSecuritySEV\">|{socket}&|; \
         0,/<ref name=\"ids\"\\/>/s||{known}&|' domaincommon.rng && \
         grep -q SocketAddress domaincommon.rng && grep -q allowReboot domaincommon.rng && \
         mount --bind . {schemas}"
    ))
    .text();
}

#[test]
#[ignore = "needs root"]
fn new_creates_a_domain_from_a_template() {
    let rig = rig_with_base();
    let before = rig.state();
    rig.template("my & <own>.xml.template", &emulated());
    let line = ["new", "-i", "guest.qcow2", "-t", "my & <own>.xml.template", "--memory", "256M"];
    let made = rig.tool("tdx-td", line.iter().chain(&["--vcpus", "1"])).document();
    let item = &made["items"][0];
    let (name, uuid) = (item["name"].as_str().unwrap(), item["uuid"].as_str().unwrap());
    assert_eq!(name, format!("tdvirsh-my & <own>-{uuid}"));
    assert_eq!((&item["managed"], &item["pool"]), (&json!(true), &json!("tdvirsh-pool")));
    // QEMU chooses the port, as the template says; list asks QEMU for it.
    assert_eq!(item["ssh"], json!(null));
    let port = listed(&rig, name)["ssh"]["port"].as_u64().unwrap();
    assert!(port > 1024, "{port}");
    rig.shell(&format!("ss -Htln 'sport = {port}' | grep -q '127.0.0.1:{port}'")).text();

    td(&rig, "delete --all --yes --timeout 0").document();
    assert_eq!(rig.state(), before);
}

#[test]
#[ignore = "needs root"]
fn new_creates_a_named_domain_of_a_template_once() {
    let rig = rig_with_base();
    rig.template("t.xml", &emulated());
    let first = from_template(&rig, "t.xml", " --name web --fix-template --ssh-port 2345").item();
    assert_eq!(first["ssh"], json!({"host": "127.0.0.1", "port": 2345}));
    let again = " --name web --fix-template --ssh-port 2345";
    assert_eq!(from_template(&rig, "t.xml", again).document()["changed"], false);
    let other = from_template(&rig, "t.xml", " --name web --fix-template").error(5);
    assert!(other["message"].as_str().unwrap().contains("ssh_port is 127.0.0.1:2345"), "{other}");
    let plain = new(&rig, "--name web").error(5);
    assert!(plain["message"].as_str().unwrap().contains("created from a template"), "{plain}");
}

#[test]
#[ignore = "needs root"]
fn new_refuses_files_that_are_not_templates() {
    let rig = rig_with_base();
    let before = rig.state();
    let good = emulated();
    let numa = "<numa><cell id='0' cpus='0' memory='1'/></numa><topology";
    let entity = "<!DOCTYPE domain [<!ENTITY x SYSTEM '/etc/passwd'>]>";
    for (text, status, says) in [
        ("", 3, "is not valid XML"),
        ("text", 3, "is not valid XML"),
        (
            "<network>OVERLAY_IMG_PATH</network>",
            3,
            "has the root element <network>, expected <domain>",
        ),
        ("<domain><name>DOMAIN</name></domain>", 3, "lacks the attribute type"),
        (&good.replace("OVERLAY_IMG_PATH", "/x"), 3, "has 0 disks with OVERLAY_IMG_PATH"),
        (&format!("{entity}{}", good.replace("DOMAIN", "&x;")), 3, "is not valid XML"),
        (&good.replace("'default'", "'nowhere'"), 4, "network 'nowhere' not found"),
        (&good.replace("\"qemu\" type=\"qcow2\"", "\"qemu\" type=\"raw\""), 3, "raw"),
        (&good.replace("type='qemu'", "type='kvm'"), 6, "does not support KVM"),
    ] {
        rig.template("bad.xml", text);
        let error = from_template(&rig, "bad.xml", "").error(status);
        let message = format!("{} {}", error["message"], error["causes"]);
        assert!(message.contains(says), "{says:?} is not in {message}");
    }
    from_template(&rig, "absent.xml", "").error(4);
    fs::write(rig.scratch().join("latin1.xml"), b"<domain>\xe4</domain>").unwrap();
    from_template(&rig, "latin1.xml", "").error(3);
    // A pipe is read to its end; an endless file is refused.
    rig.shell("mkfifo pipe.xml; mkdir folder.xml; ln -s /dev/zero endless.xml").text();
    rig.shell("(: >pipe.xml) >/dev/null 2>&1 &").text();
    for bad in ["pipe.xml", "folder.xml", "endless.xml"] {
        from_template(&rig, bad, "").error(3);
    }
    rig.template(&format!("{}.xml", "x".repeat(190)), &good);
    from_template(&rig, &format!("{}.xml", "x".repeat(190)), "").error(2);
    rig.template("numa.xml", &good.replace("<topology", numa));
    from_template(&rig, "numa.xml", "").error(2);
    rig.template("good.xml", &good);
    for (flags, status) in [
        (" --security none", 2),
        (" --network default", 2),
        (" --hotplug-ports 1", 2),
        (" --td-debug", 2),
        (" --ssh-port auto", 2),
        (" --hostname web", 3),
    ] {
        from_template(&rig, "good.xml", flags).error(status);
    }
    let much = td(&rig, "new -i guest.qcow2 -t good.xml --memory 9999G -n").document();
    assert!(
        much["warnings"].to_string().contains("memory is 9.76 TiB, but the host has only"),
        "{much}"
    );
    td(&rig, "new -i guest.qcow2 --security none --fix-template").error(2);
    assert_eq!(rig.state(), before);
}

#[test]
#[ignore = "needs root"]
fn canonicals_templates_stay_unchanged_if_libvirt_knows_their_dialect() {
    let rig = rig_with_base();
    pretend_preview(&rig);
    // The host supports neither trust domains nor vsock: only the dialect of the template remains.
    for name in CANONICAL {
        let text = emulated_original(name);
        let text = if name == "regular_vm" { text } else { without(&text, "launchSecurity") };
        rig.template("t.xml", &text);
        // Parts that this libvirt does not know either are refused, and so is a port that is open on every
        // address.
        let refused = td(&rig, "render -i guest.qcow2 -t t.xml --memory 1G").error(3);
        let message = refused["message"].as_str().unwrap();
        assert!(message.contains("attribute enable of domain/pm/suspend-to-mem"), "{message}");
        assert!(!message.contains("allowReboot"), "{message}");
        let text = text.replace(" enable=", " enabled=");
        rig.template("t.xml", &text.replace("tcp::0-", "tcp:127.0.0.1:0-"));
        let xml = td(&rig, "render -i guest.qcow2 -t t.xml --xml --memory 1G --vcpus 2");
        let xml = xml.text();
        assert!(xml.contains("<allowReboot value='no'/>"), "{xml}");
        assert!(xml.contains("<loader type='rom'"), "{xml}");
        assert!(xml.contains("hostfwd=tcp:127.0.0.1:0-:22"), "{xml}");
        assert!(xml.contains("<ioapic driver=\"qemu\"/>"), "{xml}");
        let fixed = td(&rig, "render -i guest.qcow2 -t t.xml --xml --memory 1G --fix-template");
        assert!(fixed.stderr.contains("tdx-td: warning: "), "{fixed:#?}");
        let fixed = fixed.text();
        assert!(fixed.contains("<allowReboot value='no'/>"), "{fixed}");
        assert!(fixed.contains("hostfwd=tcp:127.0.0.1:2201-:22"), "{fixed}");
    }
    let refused = td(&rig, "new -i guest.qcow2 -t t.xml --td-debug").error(2);
    assert!(refused["hint"].as_str().unwrap().contains("launchSecurity"), "{refused}");
}

#[test]
#[ignore = "needs root"]
fn ssh_ports_are_assigned_once_and_survive_a_restart() {
    let rig = rig_with_base();
    let before = rig.state();
    let first = new(&rig, "--name a --ssh-port auto").item();
    assert_eq!(first["ssh"], json!({"host": "127.0.0.1", "port": 2201}));
    rig.shell("ss -Htln 'sport = 2201' | grep -q '127.0.0.1:2201'").text();
    td(&rig, "stop a --force --yes").item();
    // The port belongs to the domain, even if nothing listens on it.
    assert_eq!(new(&rig, "--name b --ssh-port auto").item()["ssh"]["port"], 2202);
    let taken = new(&rig, "--name c --ssh-port 2201").error(5);
    assert_eq!(taken["message"], "port 2201 belongs to domain 'a'");
    // The port of libvirtd itself, in the network of the rig.
    let busy = new(&rig, "--name c --ssh-port 127.0.0.1:16509").error(5);
    assert!(busy["message"].as_str().unwrap().contains("is in use"), "{busy}");
    // QEMU does not run as root, although the tool does.
    new(&rig, "--name c --ssh-port 80").error(7);
    let elsewhere = new(&rig, "--name c --ssh-port 192.0.2.77:2222").error(5);
    assert!(
        elsewhere["message"].as_str().unwrap().contains("cannot listen on port"),
        "{elsewhere}"
    );
    new(&rig, "--name c --ssh-port [::1]:2222").error(6);
    for wrong in ["0", "70000", "any", "host:22"] {
        new(&rig, &format!("--name c --ssh-port {wrong}")).error(2);
    }
    td(&rig, "start a").item();
    assert_eq!(listed(&rig, "a")["ssh"]["port"], 2201);
    // An equal port on another address is another port.
    assert_eq!(new(&rig, "--name e --ssh-port 127.0.0.2:2201").item()["ssh"]["host"], "127.0.0.2");
    // An existing domain is found, even if no further domain could be created.
    rig.virsh(["net-destroy", "default"]);
    assert_eq!(new(&rig, "--name a --ssh-port auto").document()["changed"], false);
    rig.virsh(["net-start", "default"]);
    // The port is open on all addresses only because the user says so.
    let open = new(&rig, "--name d --ssh-port 0.0.0.0:2300").item();
    assert_eq!(open["ssh"]["port"], 2300);
    rig.shell("ss -Htln 'sport = 2300' | grep -q '0.0.0.0:2300'").text();
    td(&rig, "delete --all --yes --timeout 0").document();
    assert_eq!(rig.state(), before);
}

#[test]
#[ignore = "needs root"]
fn render_by_any_user_assigns_a_port_without_a_file() {
    let rig = rig_with_base();
    let before = rig.state();
    let plan = "tdx-td render -i guest.qcow2 --security none --ssh-port auto --xml";
    rig.shell("rm -rf /run/lock/tdx /run/tdx-pool").text();
    assert!(rig.shell(plan).text().contains("tcp:127.0.0.1:2201-:22"));
    rig.shell("test ! -e /run/lock/tdx -a ! -e /run/tdx-pool").text();
    // A command of another user has reserved the port: auto takes the next one.
    let user = "setpriv --reuid nobody --regid nogroup --groups libvirt";
    let claim = "python3 -c 'import socket, time; s = socket.socket(socket.AF_UNIX); \
        s.bind(chr(0) + \"tdx-tools/ssh-port/2201\"); time.sleep(100000)' & \
        for i in {1..600}; do grep -q tdx-tools/ssh-port /proc/net/unix && break; sleep 0.1; done";
    let both = rig.shell(&format!("{claim}; {user} {plan} -c qemu:///system; kill %1"));
    assert!(both.text().contains("tcp:127.0.0.1:2202-:22"), "{both:#?}");
    assert_eq!(rig.state(), before);
}

#[test]
#[ignore = "needs root"]
fn a_copy_of_a_domain_has_its_own_port_and_firmware_variables() {
    let rig = rig_with_base();
    let before = rig.state();
    let original = new(&rig, "--name orig --ssh-port auto").item();
    let xml = rig.virsh(["dumpxml", "--inactive", "orig"]);
    let overlay = original["overlay"].as_str().unwrap();
    rig.template("copy.xml", &xml.replace(overlay, "OVERLAY_IMG_PATH"));
    let copy = td(&rig, "new -i guest.qcow2 -t copy.xml --name copy");
    // The copied port is in use, which QEMU reports: everything that was created is removed, and nothing
    // else.
    copy.error(1);
    rig.shell("test -s /var/lib/libvirt/qemu/nvram/orig_VARS.fd").text();
    td(&rig, "stop orig --force --yes").document();
    td(&rig, "new -i guest.qcow2 -t copy.xml --name copy").item();
    assert!(rig.virsh(["dumpxml", "copy"]).contains("/copy_VARS.fd"));
    td(&rig, "delete copy --yes --timeout 0").document();
    // The name of the copy is a part of the original's file name.
    let part = td(&rig, "render -i guest.qcow2 -t copy.xml --name o --xml");
    assert!(!part.text().contains("orig_VARS.fd"), "{part:#?}");
    rig.shell("test -s /var/lib/libvirt/qemu/nvram/orig_VARS.fd").text();
    td(&rig, "delete orig --yes").document();
    assert_eq!(rig.state(), before);

    // Two domains share their firmware variables: delete removes the file with the last domain.
    for name in ["one", "two"] {
        let nvram = "<nvram>/var/lib/libvirt/qemu/nvram/both.fd</nvram>";
        let loader = "<loader readonly='yes' type='pflash'>/usr/share/OVMF/OVMF_CODE.fd</loader>";
        let xml = td::foreign(name, "").replace("</type>", &format!("</type>{loader}{nvram}"));
        let xml = xml.replace("</os>", "</os><features><acpi/></features>");
        td::define(&rig, &xml);
    }
    rig.shell("touch /var/lib/libvirt/qemu/nvram/both.fd").text();
    td(&rig, "delete one --foreign --yes").item();
    rig.shell("test -e /var/lib/libvirt/qemu/nvram/both.fd").text();
    td(&rig, "delete two --foreign --yes").item();
    assert_eq!(rig.state(), before);
}

#[test]
#[ignore = "needs root"]
fn simultaneous_new_commands_get_different_ssh_ports() {
    let rig = rig_with_base();
    let mut ports: Vec<u64> = std::thread::scope(|scope| {
        let run = || new(&rig, "--ssh-port auto").item()["ssh"]["port"].as_u64();
        let running: Vec<_> = (0..6).map(|_| scope.spawn(run)).collect();
        running.into_iter().map(|thread| thread.join().unwrap().unwrap()).collect()
    });
    ports.sort_unstable();
    ports.dedup();
    assert_eq!(ports.len(), 6, "{ports:?}");
}
