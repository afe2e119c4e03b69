//! Many commands at once: none is in another's way.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "support/pool.rs"]
mod pool;
#[path = "support/steps.rs"]
mod steps;
mod support;
#[path = "support/world.rs"]
mod world;

use std::time::Instant;

use support::{Rig, Run};
use world::{World, rig_with_images};

const CROWD: usize = 20;

/// As many commands as there are lines, all at once.
fn all_at_once(rig: &Rig, line: impl Fn(usize) -> String + Sync) -> Vec<Run> {
    std::thread::scope(|scope| {
        let line = &line;
        let run = |number| scope.spawn(move || rig.shell(&line(number)));
        let running: Vec<_> = (0..CROWD).map(run).collect();
        running.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

/// `TDX_TIMES` repeats it.
#[test]
#[ignore = "needs root"]
fn twenty_come_and_go_together() {
    let rig = rig_with_images();
    let before = World::of(&rig);
    let times = std::env::var("TDX_TIMES").map_or(1, |times| times.parse().unwrap());
    for time in 0..times {
        let began = Instant::now();
        let made = all_at_once(&rig, |number| {
            format!(
                "tdx-td new -i base.qcow2 --name x{number} --security none --memory 64M --vcpus 1 \
                 --user guest --ssh-key key.pub"
            )
        });
        let new = began.elapsed();
        for run in &made {
            assert_eq!(run.item()["action"], "create", "time {time}");
        }
        let listed = rig.shell("tdx-td list").document();
        let running = listed["items"].as_array().unwrap().iter();
        assert_eq!(running.filter(|item| item["state"] == "running").count(), CROWD);
        let began = Instant::now();
        let gone = all_at_once(&rig, |number| format!("tdx-td delete x{number} --yes --timeout 0"));
        println!("time {time}: new {new:?}, delete {:?}", began.elapsed());
        for run in &gone {
            let item = run.item();
            assert_eq!(item["action"], "delete", "time {time}");
            assert_eq!(item["deleted"].as_array().unwrap().len(), 2, "time {time}: {item:#}");
        }
        assert_eq!(World::of(&rig), before, "time {time}");
        assert_eq!(rig.shell("tdx-pool cleanup --yes").document()["changed"], false);
    }
}
