//! `examples/ansible`, run by Ansible itself, on rig 1.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use crate::support::rig::{Rig, guest_image};
use crate::support::td::{define, foreign, volumes};
use crate::support::tools::{Run, repository};

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
