//! `examples/ansible`, run by Ansible itself: the role for hosts on rig 1, the role for verifiers on this machine.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use serde_json::json;

use crate::support::quote_samples::CURRENT;
use crate::support::rig::{Rig, guest_image};
use crate::support::td::{define, foreign, volumes};
use crate::support::tdvf::Parts;
use crate::support::tools::{Run, on_path, repository};

/// The wanted state of a host, as a user's group_vars describe it.
const WANTED: &str = "
tdx_images: [/DIR/guest.qcow2]
tdx_scenario: desktop
tdx_host_options: [--sysroot, /DIR/host]
tdx_domains:
  - {name: web1, image: /DIR/guest.qcow2, memory: 64M, vcpus: 1, security: none, options: [--virt-type, qemu]}
  - {name: web2, image: /DIR/guest.qcow2, memory: 64M, vcpus: 1, security: none, state: present, options: [--virt-type, qemu]}
  - {name: never, state: absent}
";

fn play(rig: &Rig, arguments: &str) -> Run {
    let folder = repository().join("examples/ansible");
    rig.shell(&format!(
        "export HOME=$PWD LC_ALL=C.UTF-8 ANSIBLE_NOCOLOR=1 ANSIBLE_PYTHON_INTERPRETER=/usr/bin/python3; \
         ansible-playbook -i inventory.yaml -e @wanted.yaml {}/site.yaml {arguments}",
        folder.display()
    ))
}

/// The changes that a run made or predicted: task and item.
fn changed(run: &Run) -> Vec<String> {
    let mut task = "";
    let mut changed = Vec::new();
    for line in run.text().lines() {
        if let Some(name) = line.strip_prefix("TASK [") {
            task = name.split(']').next().unwrap();
        } else if let Some(item) = line.strip_prefix("changed: [localhost]") {
            changed.push(format!("{task}{item}"));
        }
    }
    let recap = run.stdout.split("PLAY RECAP").nth(1).unwrap();
    assert!(recap.contains(" failed=0 ") && recap.contains(" unreachable=0 "), "{run:#?}");
    let count = recap.split(" changed=").nth(1).unwrap().split(' ').next().unwrap();
    assert!(count.parse::<usize>().unwrap() <= changed.len(), "{run:#?}");
    assert_eq!(count == "0", changed.is_empty(), "{run:#?}");
    changed
}

#[test]
#[ignore = "needs root"]
fn playbook_changes_the_host_as_wanted_and_check_mode_predicts_it() {
    let rig = Rig::start();
    std::fs::copy(guest_image(false), rig.scratch().join("guest.qcow2")).unwrap();
    let inventory = "tdx_hosts: {hosts: {localhost: {ansible_connection: local}}}\n";
    std::fs::write(rig.scratch().join("inventory.yaml"), inventory).unwrap();
    let wanted = WANTED.replace("/DIR", rig.scratch().to_str().unwrap());
    let want = |text: &str| std::fs::write(rig.scratch().join("wanted.yaml"), text).unwrap();
    want(&wanted);
    rig.shell(
        "mkdir -p host/proc/sys/vm host/proc/self host/etc/sysctl.d; \
         echo 60 >host/proc/sys/vm/swappiness; \
         echo '22 1 259:1 / / rw - ext4 /dev/nvme0n1p1 rw' >host/proc/self/mountinfo",
    )
    .text();
    let before = rig.state();

    let predicted = changed(&play(&rig, "--check"));
    assert_eq!(rig.state(), before, "check mode changed something");
    assert_eq!(predicted.len(), 5, "{predicted:#?}");
    let swappiness = || rig.shell("cat host/proc/sys/vm/swappiness").text().to_owned();
    assert_eq!(swappiness(), "60\n");
    assert_eq!(changed(&play(&rig, "")), predicted);
    let names = rig.tool("tdx-td", ["list", "--format", "name"]);
    assert_eq!(names.text(), "web1\nweb2\n");
    assert_eq!(swappiness(), "35\n");
    let made = rig.state();
    assert_eq!(changed(&play(&rig, "")), Vec::<String>::new());
    assert_eq!(changed(&play(&rig, "--check")), Vec::<String>::new());
    assert_eq!(rig.state(), made);

    // One domain is to be deleted, another one to be changed: the first succeeds, the second is refused and
    // reported.
    let gone = wanted.replace("state: present", "state: absent");
    want(&gone);
    let predicted = changed(&play(&rig, "--check"));
    assert_eq!(rig.state(), made, "check mode changed something");
    // A guest that has not booted yet does not react to the power button.
    rig.shell("tdx-td stop web2 --force").document();
    assert_eq!(changed(&play(&rig, "")), predicted);
    assert_eq!(rig.tool("tdx-td", ["list", "--format", "name"]).text(), "web1\n");
    let other = gone.replacen("64M", "96M", 1);
    want(&other);
    for mode in ["--check", ""] {
        let run = play(&rig, mode);
        assert_eq!(run.status, Some(2), "{run:#?}");
        assert!(run.stdout.contains("\\\"exit_code\\\":5"), "{run:#?}");
    }

    // A domain that another program created is not deleted.
    define(&rig, &foreign("never", ""));
    want(&gone);
    let refused = play(&rig, "--tags domains");
    assert_eq!(refused.status, Some(2), "{refused:#?}");
    rig.shell("tdx-td delete web1 --yes --timeout 0").document();
    assert_eq!(volumes(&rig), ["guest.qcow2"]);
}

#[test]
#[ignore = "needs root"]
fn example_playbook_and_inventory_pass_ansibles_syntax_check() {
    let folder = repository().join("examples/ansible");
    let rig = Rig::start();
    let line = format!(
        "export HOME=$PWD LC_ALL=C.UTF-8; cd {} && ansible-playbook -i inventory.yaml site.yaml --syntax-check && \
         ansible-inventory -i inventory.yaml --host host1.example",
        folder.display()
    );
    let run = rig.shell(&line);
    assert!(run.text().contains("\"tdx_domains\""), "{run:#?}");
}

/// Runs the playbook that verifies these guests.
fn attest(guests: &serde_json::Value, arguments: &[&str]) -> Run {
    let home = tempfile::tempdir().unwrap();
    let mut command = on_path("ansible-playbook");
    command.env("HOME", home.path()).env("LC_ALL", "C.UTF-8").env("ANSIBLE_NOCOLOR", "1");
    command.env("ANSIBLE_PYTHON_INTERPRETER", "/usr/bin/python3");
    command.args(["-i", "localhost,", "-e"]).arg(json!({"tdx_attest_guests": guests}).to_string());
    command.arg(repository().join("examples/ansible/attest.yaml")).args(arguments);
    Run::of(command, b"")
}

#[test]
#[ignore = "needs root"]
fn attestation_playbook_accepts_expected_guests_and_names_the_failed_checks_of_others() {
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, content: &[u8]| {
        std::fs::write(directory.path().join(name), content).unwrap();
        directory.path().join(name).to_str().unwrap().to_owned()
    };
    let definition = "<domain><name>td1</name><memory unit='GiB'>1</memory><os><type machine='q35'>hvm</type></os>\
        <launchSecurity type='tdx'><policy>0x10000000</policy></launchSecurity></domain>";
    let genuine = json!({
        "name": "td1", "quote": CURRENT.quote(), "collateral": CURRENT.collateral(), "options": ["--at", CURRENT.at],
    });
    for mode in [&[][..], &["--check"]] {
        let run = attest(&json!([genuine]), mode);
        assert!(run.text().contains("ok=2    changed=0    unreachable=0    failed=0"), "{run:#?}");
    }
    // The quote of the sample is of another firmware, and answers another nonce.
    let mut other = genuine.clone();
    other["name"] = json!("td2");
    other["definition"] = json!(write("td.xml", definition.as_bytes()));
    other["firmware"] = json!(write("f.fd", &Parts::new().build()));
    other["nonce"] = json!("00");
    let run = attest(&json!([genuine, other]), &[]);
    assert_eq!(run.status, Some(2), "{run:#?}");
    assert!(run.stdout.contains("ok: [localhost] => (item=td1)"), "{run:#?}");
    let message = "\"msg\": \"td2: mrtd: the value differs from the expected value; report_data: the report data differs from the expected report data: the quote may be an old one\"";
    assert!(run.stdout.contains(message), "{run:#?}");
    // A file that is no quote is an error of its task.
    let mut broken = genuine;
    broken["quote"] = json!(write("quote.bin", b"no quote"));
    let run = attest(&json!([broken]), &[]);
    assert_eq!(run.status, Some(2), "{run:#?}");
    assert!(run.stdout.contains("is not the quote of a trust domain"), "{run:#?}");
}
