//! Many simultaneous commands: none prevents the work of another.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::support::idle::wait_until_idle;
use crate::support::rig::Rig;
use crate::support::tools::Run;
use crate::support::world::{World, rig_with_images};

const CROWD: usize = 20;

/// Runs a number of commands simultaneously.
fn all_at_once(rig: &Rig, line: impl Fn(usize) -> String + Sync) -> Vec<Run> {
    std::thread::scope(|scope| {
        let line = &line;
        let run = |number| scope.spawn(move || rig.shell(&line(number)));
        let running: Vec<_> = (0..CROWD).map(run).collect();
        running.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

/// `TDX_TIMES` sets the number of repetitions.
#[test]
#[ignore = "needs root"]
fn twenty_simultaneous_new_and_delete_commands_succeed() {
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

/// The commands that each of a hundred users can run, on a few shared objects.
const DEEDS: [&str; 12] = [
    "tdx-td new -i base.qcow2 --name xN --security none --memory 64M --vcpus 1",
    "tdx-td new -i base.qcow2 --name xN --security none --memory 64M --vcpus 1 --overwrite --yes",
    "tdx-td delete xN --yes --timeout 0",
    "tdx-td stop xN --force",
    "tdx-td start xN",
    "tdx-td list",
    "tdx-td show xN",
    "tdx-pool volumes",
    "tdx-pool import image.raw --name imageN.raw",
    "tdx-pool delete imageN.raw --yes",
    "tdx-pool cleanup --yes",
    "tdx-td overlay -i base.qcow2",
];

/// A hundred users run one command after another. Every command succeeds or names the obstacle, and at the
/// end everything is as before. `TDX_SECONDS` sets the duration; the default is ten.
#[test]
#[ignore = "needs root"]
fn a_hundred_simultaneous_commands_succeed_or_name_the_obstacle() {
    let rig = rig_with_images();
    let before = World::of(&rig);
    let seconds = std::env::var("TDX_SECONDS").map_or(10, |seconds| seconds.parse().unwrap());
    let end = Instant::now() + Duration::from_secs(seconds);
    let live = |person: u64| {
        let mut random = person;
        let mut ends = BTreeMap::new();
        while Instant::now() < end {
            // The multiplier and increment are Knuth's; the upper bits are random enough.
            random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            let deed = DEEDS[(random >> 33) as usize % DEEDS.len()];
            let run = rig.shell(&deed.replace('N', &((random >> 50) % 4).to_string()));
            // Success; or the object is absent, or in use by another command; or another command ended the
            // guest during its start, which libvirt does not attribute.
            let told = match run.status {
                Some(0) => {
                    run.document();
                    "done".to_owned()
                }
                Some(5) => run.error(5)["kind"].as_str().unwrap().to_owned(),
                Some(4) if !deed.starts_with("tdx-td new") => "not_found".to_owned(),
                Some(1) => {
                    let hint = run.error(1)["hint"].as_str().unwrap_or_default().to_owned();
                    assert!(
                        hint.contains("look for the reason in /var/log/libvirt/qemu/"),
                        "{run:#?}"
                    );
                    "ended".to_owned()
                }
                _ => panic!("{run:#?}"),
            };
            *ends.entry((deed, told)).or_insert(0) += 1;
        }
        ends
    };
    let all: BTreeMap<(&str, String), usize> = std::thread::scope(|scope| {
        let people: Vec<_> = (0..100).map(|person| scope.spawn(move || live(person))).collect();
        let ends = people.into_iter().flat_map(|person| person.join().unwrap());
        ends.fold(BTreeMap::new(), |mut all, (end, times)| {
            *all.entry(end).or_insert(0) += times;
            all
        })
    });
    for ((deed, end), times) in &all {
        println!("{times:5} {end:10} {deed}");
    }
    println!("{:5} in all", all.values().sum::<usize>());
    rig.shell("tdx-td delete --all --yes --timeout 0").document();
    rig.shell("tdx-pool delete image0.raw image1.raw image2.raw image3.raw --yes").document();
    wait_until_idle(&rig);
    rig.shell("tdx-pool cleanup --yes").document();
    assert_eq!(World::of(&rig), before);
}
