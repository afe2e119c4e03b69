//! Crash-only: the tools are killed at every step that changes something outside of them, and the
//! next run, or `tdx-pool cleanup`, leaves what an undisturbed run would have left.
//!
//! The steps are not written down here: each verb is watched once, and then stopped at each step that
//! was seen (`support/steps.rs`). By default that is SIGKILL at the steps that change something;
//! `TDX_CRASH=full` stops it at every step by every signal, and `TDX_UPDATE=1` does that, too, and
//! writes docs/reliability.md.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

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

use pool::raw_image;
use steps::{Fate, Moment, Walk};
use support::{Rig, guest_image, repository};
use world::World;

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
    let full = update || std::env::var_os("TDX_CRASH").is_some_and(|how| how == "full");
    let rig = rig();
    let origin = World::of(&rig);
    prepare(&rig, verb);
    let before = World::of(&rig);
    let undisturbed = rig.walk(verb.line, None);
    undisturbed.run.document();
    let done = World::of(&rig);
    take_back(&rig, verb, &origin, "undisturbed");
    let signals: &[Signal] = if full { &[SIGKILL, SIGTERM, SIGINT] } else { &[SIGKILL] };
    let mut rows = Vec::new();
    for moment in moments(&undisturbed.steps, full) {
        let mut left = Vec::new();
        for &signal in signals {
            let when = format!("{} by {signal} at {moment:?}", verb.title);
            prepare(&rig, verb);
            let walk = rig.walk(verb.line, Some((moment.clone(), Fate::Signal(signal))));
            let after = World::of(&rig);
            check_end(&walk, signal, &when);
            left.push(match &after {
                same if *same == before => "nothing".to_owned(),
                all if *all == done => "all".to_owned(),
                _ if signal != SIGKILL => panic!("{when} left {}: {walk:#?}", after.since(&before)),
                half => half.since(&before),
            });
            if verb.undo != verb.line {
                take_back(&rig, verb, &origin, &when);
                prepare(&rig, verb);
                rig.walk(verb.line, Some((moment.clone(), Fate::Signal(signal))));
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

/// A rig with base.qcow2 in its pool, and images of a few pieces to import: data and holes.
fn rig() -> Rig {
    let rig = Rig::start();
    let image = |name: &str| rig.scratch().join(name);
    raw_image(image("image.raw"), 6 << 20, 1);
    raw_image(image("other.raw"), 6 << 20, 2);
    let guest = guest_image(false).display().to_string();
    rig.shell(&format!(
        "qemu-img convert -f raw -O qcow2 image.raw image.qcow2 && \
         tdx-pool import '{guest}' --name base.qcow2 && \
         echo 'ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIA me' >key.pub"
    ))
    .text();
    rig
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

/// It died of the signal, or the signal came too late to be heard.
#[track_caller]
fn check_end(walk: &Walk, signal: Signal, when: &str) {
    assert!(walk.struck, "{when}: the moment did not come: {walk:#?}");
    let died = walk.signal == Some(signal as i32);
    let finished = signal != SIGKILL && walk.run.status == Some(0);
    assert!(died || finished, "{when}: {walk:#?}");
    if died {
        let printed = walk.run.stdout.is_empty() || signal == SIGKILL;
        assert!(printed, "{when}: a document all the same: {walk:#?}");
    } else {
        walk.run.document();
    }
}

/// The moments before each step and, where libvirt is asked to change something, right after: it
/// works on while its caller is dead. Of a long row of one step the first, a middle and the last.
fn moments(steps: &[String], full: bool) -> Vec<Moment> {
    let mut moments = Vec::new();
    let mut at = 0;
    for series in steps.chunk_by(|a, b| a == b) {
        let step = &series[0];
        let before = steps[..at].iter().filter(|other| *other == step).count();
        at += series.len();
        if is_question(step) && !full {
            continue;
        }
        let mut chosen = vec![1, series.len().div_ceil(2), series.len()];
        chosen.dedup();
        for nth in chosen {
            let moment = Moment { step: step.clone(), nth: before + nth, after: false };
            moments.push(moment.clone());
            if step.starts_with("libvirt: ") && !is_question(step) {
                moments.push(Moment { after: true, ..moment });
            }
        }
    }
    moments
}

/// Whether a message to libvirt changes nothing.
fn is_question(step: &str) -> bool {
    let words = ["Get", "Lookup", "List", "Is", "Has", "Open", "NumOf", "Recv"];
    step.starts_with("libvirt: ") && words.iter().any(|word| step.contains(word))
}

fn write_down(verb: &Verb, rows: &[Row]) {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _one = ONE_AT_A_TIME.lock().unwrap();
    let path = repository().join("docs/reliability.md");
    let text = std::fs::read_to_string(&path).unwrap();
    let head = format!("### {}\n", verb.title);
    let mut table = head.clone();
    table.push_str(
        "\n| at | SIGKILL leaves | SIGTERM leaves | SIGINT leaves |\n|---|---|---|---|\n",
    );
    for rows in rows.chunk_by(|a, b| {
        a.left == b.left && is_question(&a.moment.step) && is_question(&b.moment.step)
    }) {
        let Row { moment, left } = &rows[0];
        let when = if moment.after { ", sent" } else { "" };
        let more = if rows.len() > 1 {
            format!(" and {} more questions", rows.len() - 1)
        } else {
            String::new()
        };
        writeln!(table, "| {}{when}{more} | {} |", moment.step, left.join(" | ")).unwrap();
    }
    let start = text.find(&head).unwrap_or(text.len());
    let end = text[start..]
        .get(4..)
        .and_then(|rest| rest.find("\n### "))
        .map_or(text.len(), |at| start + 4 + at + 1);
    std::fs::write(&path, format!("{}{table}\n{}", &text[..start], &text[end..])).unwrap();
}
