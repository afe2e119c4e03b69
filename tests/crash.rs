//! Crash-only: the tools are killed at every step that changes something outside of them, and the
//! next run, or `tdx-pool cleanup`, leaves what an undisturbed run would have left.
//!
//! The steps are not written down here: each verb is watched once, and then stopped at each step that
//! was seen (`support/steps.rs`). By default that is SIGKILL at the steps that change something.
//! `TDX_UPDATE=1` adds SIGTERM and SIGINT and writes docs/reliability.md; `TDX_CRASH=full` adds the
//! questions to libvirt as well.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]
#![expect(clippy::print_stderr, reason = "the figures, for --nocapture")]

#[path = "support/pool.rs"]
mod pool;
#[path = "support/steps.rs"]
mod steps;
mod support;
#[path = "support/world.rs"]
mod world;

use std::fmt::Write;
use std::sync::Mutex;

use nix::sys::signal::Signal::{self, SIGINT, SIGKILL, SIGTERM};

use steps::{Fate, Moment, Walk, is_full, is_question, moments};
use support::{Rig, repository};
use world::{World, rig_with_images};

const NEW: &str = "tdx-td new -i base.qcow2 --name x --security none --memory 64M --vcpus 1";
const DELETE: &str = "tdx-td delete x --yes --timeout 0";

/// A verb, what is there before it, and what takes back what it did.
struct Verb {
    title: &'static str,
    line: &'static str,
    /// A shell line, as is the next.
    before: &'static str,
    undo: &'static str,
}

#[test]
#[ignore = "needs root"]
fn new() {
    walk(&Verb { title: "tdx-td new", line: NEW, before: "", undo: DELETE });
}

#[test]
#[ignore = "needs root"]
fn new_with_a_seed() {
    walk(&Verb {
        title: "tdx-td new --user",
        line: "tdx-td new -i base.qcow2 --name x --security none --memory 64M --vcpus 1 \
               --user guest --ssh-key key.pub",
        before: "",
        undo: DELETE,
    });
}

#[test]
#[ignore = "needs root"]
fn new_with_an_encrypted_disk() {
    walk(&Verb {
        title: "tdx-td new --blank, encrypted",
        line: "tdx-td new --blank 8M --name x --security none --memory 64M --vcpus 1 \
               --set storage.encryption=on --passphrase-file passphrase",
        // A key that is made in no time. And qemu-img often gives up on a machine that counts time in
        // ticks; libvirt would be asked again, each time another number of times.
        before: "echo secret >passphrase; chmod 600 passphrase; mountpoint -q /usr/bin/qemu-img || { \
                 cp /usr/bin/qemu-img real && printf '#!/bin/bash\n\
                 for try in {1..20}; do \
                 %s/real \"${@/format=luks/format=luks,encrypt.iter-time=10}\" && exit; done\n' \"$PWD\" \
                 >quick && chmod 755 quick && mount --bind quick /usr/bin/qemu-img; }",
        undo: DELETE,
    });
}

#[test]
#[ignore = "needs root"]
fn delete() {
    walk(&Verb {
        title: "tdx-td delete",
        line: DELETE,
        before: "tdx-td new -i base.qcow2 --name x --security none --memory 64M --vcpus 1 \
                 --user guest --ssh-key key.pub",
        undo: DELETE,
    });
}

#[test]
#[ignore = "needs root"]
fn import() {
    // Into a pool that has to be made.
    walk(&Verb {
        title: "tdx-pool import",
        line: "tdx-pool import image.raw",
        before: "virsh pool-destroy tdvirsh-pool; virsh pool-undefine tdvirsh-pool",
        undo: "tdx-pool ensure && tdx-pool delete image.raw --yes",
    });
}

#[test]
#[ignore = "needs root"]
fn import_that_replaces() {
    walk(&Verb {
        title: "tdx-pool import --replace",
        line: "tdx-pool import other.raw --name image.raw --replace --yes",
        before: "tdx-pool import image.raw",
        undo: "tdx-pool delete image.raw --yes",
    });
}

#[test]
#[ignore = "needs root"]
fn import_that_compresses() {
    walk(&Verb {
        title: "tdx-pool import --compress",
        line: "tdx-pool import image.raw --compress",
        before: "",
        undo: "tdx-pool delete image.raw --yes",
    });
}

#[test]
#[ignore = "needs root"]
fn import_by_upload() {
    walk(&Verb {
        title: "tdx-pool import, by upload",
        line: "tdx-pool -c qemu+tcp://127.0.0.1/system import image.qcow2",
        before: "",
        undo: "tdx-pool delete image.qcow2 --yes",
    });
}

#[test]
#[ignore = "needs root"]
fn delete_of_a_volume() {
    walk(&Verb {
        title: "tdx-pool delete",
        line: "tdx-pool delete image.raw --yes",
        before: "tdx-pool import image.raw",
        undo: "tdx-pool delete image.raw --yes",
    });
}

#[test]
#[ignore = "needs root"]
fn cleanup() {
    walk(&Verb {
        title: "tdx-pool cleanup",
        line: "tdx-pool cleanup --yes",
        before: "tdx-td overlay -i base.qcow2; touch \
                 /var/lib/libvirt/images/{cidata.1.iso,import.000000000000000.part} \
                 /run/lock/tdx/overlay.000000000000000.qcow2",
        undo: "true",
    });
}

/// What a verb left when it was stopped.
struct Row {
    moment: Moment,
    left: Vec<String>,
}

/// Stops a verb at its steps, and checks that each time it can be finished and undone.
fn walk(verb: &Verb) {
    let update = std::env::var_os("TDX_UPDATE").is_some();
    let full = is_full();
    let rig = rig_with_images();
    let origin = World::of(&rig);
    prepare(&rig, verb);
    let before = World::of(&rig);
    let undisturbed = rig.walk(verb.line, None);
    undisturbed.run.document();
    let done = World::of(&rig);
    take_back(&rig, verb, &origin, "undisturbed");
    let signals: &[Signal] = if full || update { &[SIGKILL, SIGTERM, SIGINT] } else { &[SIGKILL] };
    let mut rows = Vec::new();
    let mut prepared = false;
    for moment in moments(&undisturbed.steps, full) {
        let mut left = Vec::new();
        for &signal in signals {
            let when = format!("{} by {signal} at {moment:?}", verb.title);
            let stop = || rig.walk(verb.line, Some((moment.clone(), Fate::Signal(signal))));
            if !prepared {
                prepare(&rig, verb);
            }
            let walk = stop();
            let after = World::of(&rig);
            check_end(&walk, &moment, signal, &when);
            assert!(walk.run.stdout.is_empty() || after == done, "{when} lied: {walk:#?}");
            left.push(match &after {
                same if *same == before => "nothing".to_owned(),
                all if *all == done => "all".to_owned(),
                half if signal == SIGKILL || walk.says_so() => half.since(&before),
                half => panic!("{when} left {}: {walk:#?}", half.since(&before)),
            });
            prepared = signal != SIGKILL && after == before;
            if prepared {
                continue; // as if it had never been
            }
            if full && signal == SIGKILL && verb.undo != verb.line {
                take_back(&rig, verb, &origin, &when);
                prepare(&rig, verb);
                stop();
            }
            rig.shell(verb.line).document();
            rig.shell("tdx-pool cleanup --yes").document();
            assert_eq!(World::of(&rig), done, "{when}, and run again");
            take_back(&rig, verb, &origin, &when);
        }
        rows.push(Row { moment, left });
    }
    eprintln!("{}: {} steps, {} moments", verb.title, undisturbed.steps.len(), rows.len());
    if update {
        write_down(verb, &rows);
    }
}

fn prepare(rig: &Rig, verb: &Verb) {
    rig.shell(verb.before).text();
    world::wait_until_idle(rig);
}

/// Undoes what a verb did, or half did, and checks that nothing is left of it.
#[track_caller]
fn take_back(rig: &Rig, verb: &Verb, origin: &World, when: &str) {
    rig.shell(verb.undo).text();
    rig.shell("tdx-pool cleanup --yes").document();
    assert_eq!(World::of(rig), *origin, "{when}, taken back");
    let again = rig.shell("tdx-pool cleanup --yes").document();
    assert_eq!(again["changed"], false, "{when}: cleanup finds more the second time");
}

/// It died of the signal, or the signal came too late to be heard. Into how many messages libvirt cuts
/// a stream differs from run to run: the last of them may not come.
#[track_caller]
fn check_end(walk: &Walk, moment: &Moment, signal: Signal, when: &str) {
    let in_stream = moment.step.contains("virStreamSend");
    assert!(walk.struck || in_stream, "{when}: the moment did not come: {walk:#?}");
    let finished = walk.run.status == Some(0) && (signal != SIGKILL || !walk.struck);
    assert!(finished || walk.signal == Some(signal as i32), "{when}: {walk:#?}");
}

/// Puts a verb's table into docs/reliability.md, in place of the one there.
fn write_down(verb: &Verb, rows: &[Row]) {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _one = ONE_AT_A_TIME.lock().unwrap();
    let path = repository().join("docs/reliability.md");
    let text = std::fs::read_to_string(&path).unwrap();
    let head = format!("### {}\n", verb.title);
    let (above, rest) = text.split_once(&head).expect("a heading for every verb");
    let below = rest.find("\n### ").map_or("", |at| &rest[at..]);
    let mut table = String::from(
        "\n| at | SIGKILL leaves | SIGTERM leaves | SIGINT leaves |\n|---|---|---|---|\n",
    );
    let both_ask = |a: &Row, b: &Row| is_question(&a.moment.step) && is_question(&b.moment.step);
    for rows in rows.chunk_by(|a, b| a.left == b.left && both_ask(a, b)) {
        let Moment { step, after, .. } = &rows[0].moment;
        let more = match rows.len() {
            1 if *after => ", sent".to_owned(),
            1 => String::new(),
            many => format!(" and {} more questions", many - 1),
        };
        writeln!(table, "| {step}{more} | {} |", rows[0].left.join(" | ")).unwrap();
    }
    std::fs::write(&path, format!("{above}{head}{table}{below}")).unwrap();
}
