//! Stops a verb at its steps in rig 1, and checks after each kill that the verb can be finished and undone.

#![expect(clippy::print_stderr, reason = "the figures, for --nocapture")]

use std::collections::HashSet;
use std::time::Instant;

use nix::sys::signal::Signal::{self, SIGINT, SIGKILL, SIGTERM};

use super::idle::wait_until_idle;
use super::rig::Rig;
use super::steps::{Fate, Moment, Walk, is_full, moments, of_each_kind};
use super::table::{self, Row};
use super::world::World;

/// A verb, the command that prepares it, and the command that undoes it.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Verb<'a> {
    pub(crate) title: &'a str,
    pub(crate) line: &'a str,
    /// A shell line, like the next two fields.
    pub(crate) before: &'a str,
    pub(crate) undo: &'a str,
    /// A command that waits until other programs have completed the request of the verb.
    pub(crate) settle: &'a str,
    /// The step from which on the verb takes the steps of another verb, which a test walks as well.
    pub(crate) joins: Option<&'a str>,
}

/// Stops a verb at its steps, and checks after each kill that the verb can be finished and undone.
pub(crate) fn walk(rig: &Rig, verb: &Verb<'_>) {
    let (full, update, began) = (is_full(), table::update(), Instant::now());
    let origin = World::of(rig);
    prepare(rig, verb);
    let before = World::of(rig);
    let undisturbed = rig.walk(verb.line, None);
    undisturbed.run.document();
    rig.shell(verb.settle).text();
    let done = World::of(rig);
    rig.shell("tdx-pool cleanup --yes").document();
    let clean = World::of(rig);
    take_back(rig, verb, &origin, "undisturbed");
    let signals: &[Signal] = if full || update { &[SIGKILL, SIGTERM, SIGINT] } else { &[SIGKILL] };
    let all = moments(&undisturbed.steps, full);
    let mut moments = all.clone();
    if !(full || update) {
        let joins = moments.iter().position(|moment| verb.joins == Some(&moment.step));
        moments.truncate(joins.map_or(moments.len(), |at| at + 1));
        moments = of_each_kind(moments);
    }
    let mut rows = Vec::new();
    let mut finished = HashSet::new();
    let mut prepared = false;
    for moment in moments {
        let mut left = Vec::new();
        for &signal in signals {
            let when = format!("{} by {signal} at {moment:?}", verb.title);
            let stop = || {
                let walk = rig.walk(verb.line, Some((moment.clone(), Fate::Signal(signal))));
                rig.shell(verb.settle).text();
                walk
            };
            if !prepared {
                prepare(rig, verb);
            }
            let walk = stop();
            let after = World::of(rig);
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
                continue; // the kill left nothing
            }
            // A state that was finished before is only undone.
            let is_new = finished.insert(after);
            if full && is_new && signal == SIGKILL && verb.undo != verb.line {
                take_back(rig, verb, &origin, &when);
                prepare(rig, verb);
                stop();
            }
            if full || is_new {
                rig.shell(verb.line).document();
                rig.shell(verb.settle).text();
                rig.shell("tdx-pool cleanup --yes").document();
                assert_eq!(World::of(rig), clean, "{when}, and run again");
            }
            take_back(rig, verb, &origin, &when);
        }
        rows.push(Row::new(&moment, left));
    }
    let (steps, times) = (undisturbed.steps.len(), rows.len());
    eprintln!("{}: {steps} steps, {times} moments, {:?}", verb.title, began.elapsed());
    if update {
        table::write_down(
            verb.title,
            &["SIGKILL leaves", "SIGTERM leaves", "SIGINT leaves"],
            &rows,
        );
    } else if !full {
        let steps: Vec<String> = all.iter().map(table::label).collect();
        table::check(verb.title, &steps, &rows);
    }
}

fn prepare(rig: &Rig, verb: &Verb<'_>) {
    rig.shell(verb.before).text();
    wait_until_idle(rig);
}

/// Undoes what a verb did completely or partly, and checks that nothing is left of it.
#[track_caller]
fn take_back(rig: &Rig, verb: &Verb<'_>, origin: &World, when: &str) {
    rig.shell(verb.undo).text();
    rig.shell("tdx-pool cleanup --yes").document();
    assert_eq!(World::of(rig), *origin, "{when}, taken back");
    let again = rig.shell("tdx-pool cleanup --yes").document();
    assert_eq!(again["changed"], false, "{when}: cleanup finds more the second time");
}

/// Fails unless the verb died of the signal, or the signal came too late. The number of messages of a stream
/// differs from run to run: the last of them may not come.
#[track_caller]
fn check_end(walk: &Walk, moment: &Moment, signal: Signal, when: &str) {
    let in_stream = moment.step.contains("virStreamSend");
    assert!(walk.struck || in_stream, "{when}: the moment did not come: {walk:#?}");
    let finished = walk.run.status == Some(0) && (signal != SIGKILL || !walk.struck);
    assert!(finished || walk.signal == Some(signal as i32), "{when}: {walk:#?}");
}
