//! Kills of the tools at every step that changes something outside of the tool. The next run, or `tdx-pool
//! cleanup`, must leave what an undisturbed run would have left.
//!
//! This file does not list the steps: each verb is traced once, and then stopped at each recorded step
//! (`support/steps.rs`, `support/kills.rs`). By default the test sends SIGKILL at the steps that change
//! something. `TDX_UPDATE=1` adds SIGTERM and SIGINT and writes docs/internals/reliability.md.
//! `TDX_CRASH=full` adds the questions to libvirt.

use std::collections::BTreeSet;
use std::fs;

use nix::sys::signal::Signal::SIGTERM;

use crate::support::kills::{Verb, walk};
use crate::support::rig::Rig;
use crate::support::steps::{self, Fate, Moment};
use crate::support::table;
use crate::support::td::{define, foreign};
use crate::support::template::emulated;
use crate::support::tools::{self, repository};
use crate::support::tree::Tree;
use crate::support::world::{World, fill_with_images, rig_with_disk, rig_with_images};

const NEW: &str = "tdx-td new -i base.qcow2 --name x --security none --memory 64M --vcpus 1";
const WITH_SEED: &str = "tdx-td new -i base.qcow2 --name x --security none --memory 64M --vcpus 1 \
                         --user guest --ssh-key key.pub";
const DELETE: &str = "tdx-td delete x --yes --timeout 0";
const CUT_OFF: &str = "tdx-td stop x --force";

/// Walks a verb in a rig of its own.
fn walk_alone(verb: &Verb<'_>) {
    walk(&rig_with_images(), verb);
}

#[test]
#[ignore = "needs root"]
fn new_killed_at_any_step_can_be_finished_and_undone() {
    let rig = rig_with_images();
    walk(&rig, &Verb { title: "tdx-td new", line: NEW, undo: DELETE, ..Verb::default() });
    // With a template the steps are the same, after two validations by libvirt: one before the image is
    // examined, and one of the final definition.
    rig.template("t.xml", &emulated());
    let steps = |line: &str| {
        let walk = rig.walk(line, None);
        walk.run.document();
        rig.shell(DELETE).document();
        walk.steps.into_iter().filter(|step| !steps::is_question(step)).collect::<Vec<_>>()
    };
    let own = "tdx-td new -i base.qcow2 -t t.xml --name x --memory 64M --vcpus 1";
    let validation = "libvirt: virDomainDefineXMLFlags";
    let mut expected = [validation, validation, "libvirt: virConnectDomainXMLToNative"]
        .map(str::to_owned)
        .to_vec();
    expected.extend(steps(NEW));
    assert_eq!(steps(own), expected);
}

#[test]
#[ignore = "needs root"]
fn new_with_a_seed_killed_at_any_step_can_be_finished_and_undone() {
    walk_alone(&Verb {
        title: "tdx-td new --user",
        line: WITH_SEED,
        undo: DELETE,
        joins: Some("libvirt: virDomainCreate"),
        ..Verb::default()
    });
}

#[test]
#[ignore = "needs root"]
fn new_with_an_encrypted_disk_killed_at_any_step_can_be_finished_and_undone() {
    walk_alone(&Verb {
        title: "tdx-td new --blank, encrypted",
        line: "tdx-td new --blank 8M --name x --security none --memory 64M --vcpus 1 \
               --set storage.encryption=on --passphrase-file passphrase",
        // This qemu-img derives the key of LUKS in no time, and repeats a failed call: on a machine that
        // counts time in ticks it often fails, and the steps would differ from run to run.
        before: "echo secret >passphrase; chmod 600 passphrase; mountpoint -q /usr/bin/qemu-img || { \
                 cp /usr/bin/qemu-img real && printf '#!/bin/bash\n\
                 for try in {1..20}; do \
                 %s/real \"${@/format=luks/format=luks,encrypt.iter-time=10}\" && exit; done\n' \"$PWD\" \
                 >quick && chmod 755 quick && mount --bind quick /usr/bin/qemu-img; }",
        undo: DELETE,
        joins: Some("libvirt: virDomainCreate"),
        ..Verb::default()
    });
}

#[test]
#[ignore = "needs root"]
fn new_with_overwrite_killed_at_any_step_can_be_finished_and_undone() {
    let rig = rig_with_images();
    let line = "tdx-td new -i base.qcow2 --name x --security none --memory 80M --vcpus 1 \
                --overwrite --yes";
    walk(
        &rig,
        &Verb {
            title: "tdx-td new --overwrite",
            line,
            before: NEW,
            undo: DELETE,
            joins: Some("libvirt: virDomainDefineXMLFlags"),
            ..Verb::default()
        },
    );
    // A command that is stopped in time keeps the former domain.
    rig.shell(NEW).document();
    let before = World::of(&rig);
    let step = "libvirt: virStorageVolCreateXML".to_owned();
    let moment = Moment { step, nth: 1, after: true };
    let told = rig.walk(line, Some((moment, Fate::Signal(SIGTERM))));
    assert_eq!((told.struck, told.signal), (true, Some(SIGTERM as i32)), "{told:#?}");
    assert_eq!(World::of(&rig), before, "{told:#?}");
}

#[test]
#[ignore = "needs root"]
fn delete_killed_at_any_step_can_be_finished() {
    walk_alone(&Verb {
        title: "tdx-td delete",
        line: DELETE,
        before: WITH_SEED,
        undo: DELETE,
        ..Verb::default()
    });
}

#[test]
#[ignore = "needs root"]
fn start_and_stop_killed_at_any_step_can_be_finished_and_undone() {
    let rig = rig_with_images();
    rig.shell(&format!("{NEW} && {CUT_OFF}")).text();
    walk(
        &rig,
        &Verb { title: "tdx-td start", line: "tdx-td start x", undo: CUT_OFF, ..Verb::default() },
    );
    walk(
        &rig,
        &Verb {
            title: "tdx-td stop --force",
            line: CUT_OFF,
            before: "tdx-td start x",
            undo: CUT_OFF,
            ..Verb::default()
        },
    );
}

#[test]
#[ignore = "needs root"]
fn overlay_killed_at_any_step_can_be_finished_and_undone() {
    walk_alone(&Verb {
        title: "tdx-td overlay",
        line: "tdx-td overlay -i base.qcow2",
        undo: "true",
        ..Verb::default()
    });
}

/// Network cards of a machine made of files are given to two domains and taken back.
#[test]
#[ignore = "needs root"]
fn hostdevs_killed_at_any_step_can_be_finished_and_undone() {
    let rig = rig_with_images();
    let host = Tree::with_two_cards(rig.scratch());
    let entry = |domain: &str, index: u8| {
        format!(
            "  {domain}:\n    passthrough_devices:\n      - match: {{driver: igb, select_index: {index}}}\n"
        )
    };
    fs::write(rig.scratch().join("both.yaml"), format!("vms:\n{}{}", entry("a", 0), entry("b", 1)))
        .unwrap();
    let none = "vms:\n  a:\n    passthrough_devices: []\n  b:\n    passthrough_devices: []\n";
    fs::write(rig.scratch().join("none.yaml"), none).unwrap();
    define(&rig, &foreign("a", ""));
    define(&rig, &foreign("b", ""));
    let root = host.path("").display().to_string();
    let line = |file: &str| format!("tdx-td hostdevs --config {file} --yes --sysroot {root}");
    let (give, take) = (line("both.yaml"), line("none.yaml"));
    // The definitions keep the ports of the cards from now on.
    rig.shell(&format!("{give} && {take}")).text();
    walk(&rig, &Verb { title: "tdx-td hostdevs", line: &give, undo: &take, ..Verb::default() });
    walk(
        &rig,
        &Verb {
            title: "tdx-td hostdevs, none",
            line: &take,
            before: &give,
            undo: &take,
            ..Verb::default()
        },
    );
}

#[test]
#[ignore = "needs root"]
fn attach_and_detach_killed_at_any_step_can_be_finished_and_undone() {
    let rig = Rig::start_for_booted_guests();
    fill_with_images(&rig);
    rig.disk("disk");
    let new = NEW.replace("64M", "256M");
    rig.shell(&format!("{new} --hotplug-ports 2 --wait ip")).text();
    let (give, take) = ("tdx-disk attach x ./disk --persistent", "tdx-disk detach x ./disk");
    walk(&rig, &Verb { title: "tdx-disk attach", line: give, undo: take, ..Verb::default() });
    walk(
        &rig,
        &Verb {
            title: "tdx-disk detach",
            line: take,
            before: give,
            undo: take,
            // The guest releases the disk by itself after the request.
            settle: "for try in {1..30}; do virsh domblklist x | grep -q vdb || break; sleep 0.1; done",
            ..Verb::default()
        },
    );
}

#[test]
#[ignore = "needs root"]
fn attach_and_detach_of_a_shut_off_guest_killed_at_any_step_can_be_finished() {
    let rig = rig_with_disk();
    rig.shell(&format!("{NEW} && {CUT_OFF}")).text();
    let give = "tdx-disk attach x ./disk --persistent --bus scsi";
    let take = "tdx-disk detach x ./disk";
    // The definition keeps the controller of the disk from now on.
    rig.shell(&format!("{give} && {take}")).text();
    walk(
        &rig,
        &Verb { title: "tdx-disk attach, guest off", line: give, undo: take, ..Verb::default() },
    );
    walk(
        &rig,
        &Verb {
            title: "tdx-disk detach, guest off",
            line: take,
            before: give,
            undo: take,
            ..Verb::default()
        },
    );
}

#[test]
#[ignore = "needs root"]
fn import_killed_at_any_step_can_be_finished_and_undone() {
    // The import creates the pool.
    walk_alone(&Verb {
        title: "tdx-pool import",
        line: "tdx-pool import image.raw",
        before: "virsh pool-destroy tdvirsh-pool; virsh pool-undefine tdvirsh-pool",
        undo: "tdx-pool ensure && tdx-pool delete image.raw --yes",
        ..Verb::default()
    });
}

#[test]
#[ignore = "needs root"]
fn import_with_replace_killed_at_any_step_can_be_finished_and_undone() {
    walk_alone(&Verb {
        title: "tdx-pool import --replace",
        line: "tdx-pool import other.raw --name image.raw --replace --yes",
        before: "tdx-pool import image.raw",
        undo: "tdx-pool delete image.raw --yes",
        ..Verb::default()
    });
}

#[test]
#[ignore = "needs root"]
fn import_with_compress_killed_at_any_step_can_be_finished_and_undone() {
    walk_alone(&Verb {
        title: "tdx-pool import --compress",
        line: "tdx-pool import image.raw --compress",
        undo: "tdx-pool delete image.raw --yes",
        ..Verb::default()
    });
}

#[test]
#[ignore = "needs root"]
fn import_by_upload_killed_at_any_step_can_be_finished_and_undone() {
    walk_alone(&Verb {
        title: "tdx-pool import, by upload",
        line: "tdx-pool -c qemu+tcp://127.0.0.1/system import image.qcow2",
        undo: "tdx-pool delete image.qcow2 --yes",
        ..Verb::default()
    });
}

#[test]
#[ignore = "needs root"]
fn ensure_delete_and_cleanup_of_a_pool_killed_at_any_step_can_be_finished() {
    let rig = rig_with_images();
    walk(
        &rig,
        &Verb {
            title: "tdx-pool ensure",
            line: "tdx-pool ensure --pool more --path /var/lib/libvirt/images/more",
            undo: "! virsh pool-info more || { virsh pool-destroy more; virsh pool-undefine more; }; \
                   rm -rf /var/lib/libvirt/images/more",
            ..Verb::default()
        },
    );
    walk(
        &rig,
        &Verb {
            title: "tdx-pool delete",
            line: "tdx-pool delete image.raw --yes",
            before: "tdx-pool import image.raw",
            undo: "tdx-pool delete image.raw --yes",
            ..Verb::default()
        },
    );
    walk(
        &rig,
        &Verb {
            title: "tdx-pool cleanup",
            line: "tdx-pool cleanup --yes",
            before: "tdx-td overlay -i base.qcow2; touch \
                     /var/lib/libvirt/images/{cidata.000000000000001.iso,import.000000000000000.part} \
                     /run/tdx-pool/overlay.000000000000000.qcow2",
            undo: "true",
            ..Verb::default()
        },
    );
}

/// Verbs that are not walked, and the test that kills them. The number of calls of `evidence` differs from run to run,
/// because it asks the guest agent until the kernel of the guest has answered.
const KILLED_ELSEWHERE: [(&str, &str); 1] =
    [("tdx-td evidence", "evidence_is_the_quote_for_the_nonce_and_the_event_log")];

/// Every verb with --dry-run changes something: a test must kill it, and a table must say what that leaves.
#[test]
fn every_verb_that_changes_something_has_a_table_and_a_test_of_kills() {
    let page = fs::read_to_string(table::page()).unwrap();
    let tables = page.split("\n### ").skip(1).map(|part| part.split_once('\n').unwrap());
    let tables: Vec<(&str, usize)> =
        tables.map(|(title, table)| (title, table.matches("\n| ").count())).collect();
    for (title, rows) in &tables {
        assert!(*rows > 3, "the table of {title} has {rows} lines");
    }
    let sources = tools::rust_files(&repository().join("tests"));
    let sources: String = sources.iter().map(|path| fs::read_to_string(path).unwrap()).collect();
    let mut verbs = BTreeSet::new();
    for tool in tools::TOOLS {
        for verb in tools::verbs(tool, &[]) {
            let words = verb.iter().map(String::as_str).chain(["--help"]);
            if tools::tool(tool, words).text().contains("-n, --dry-run") {
                verbs.insert(format!("{tool} {}", verb.join(" ")));
            }
        }
    }
    assert!(verbs.len() > 15, "{verbs:?}");
    for (verb, test) in KILLED_ELSEWHERE {
        assert!(verbs.remove(verb), "{verb} changes nothing");
        assert!(sources.contains(&format!("fn {test}(")), "no test {test} kills {verb}");
    }
    for verb in &verbs {
        let titles = tables.iter().map(|(title, _)| *title);
        let of = |title: &&str| {
            let rest = title.strip_prefix(verb.as_str());
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', ',']))
        };
        let mut own = titles.filter(of).peekable();
        assert!(own.peek().is_some(), "no table of what a kill of {verb} leaves");
        for title in own {
            assert!(sources.contains(&format!("\"{title}\"")), "no test walks {title}");
        }
    }
}
