//! Two simultaneous commands that change one object, in rig 1, compared with the two commands one after the
//! other.

#![expect(clippy::print_stdout, reason = "the figures, for --nocapture")]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::BTreeMap;
use std::fs;
use std::ops::Range;

use serde_json::Value;

use super::rig::Rig;
use super::tools::Run;
use super::world::World;

/// The rounds of each race, if `TDX_ROUNDS` sets them.
fn rounds() -> Option<usize> {
    Some(std::env::var("TDX_ROUNDS").ok()?.parse().unwrap())
}

/// Runs races in one rig. Without `TDX_ROUNDS` each race runs once, and each begins at another call.
pub(crate) fn run_all(rig: &Rig, races: &[Race<'_>]) {
    let origin = World::of(rig);
    for (number, race) in races.iter().enumerate() {
        let rounds = rounds().map_or(number..number + 1, |rounds| 0..rounds);
        race.run(rig, &origin, rounds);
    }
    let host = World::of(rig);
    assert!(host == origin, "{:#?}", host.differences(&origin));
}

/// Two commands that change one object.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Race<'a> {
    /// The two command lines.
    pub(crate) commands: [&'a str; 2],
    /// A shell line that creates the object.
    pub(crate) before: &'a str,
    /// A shell line that removes everything that the commands and `before` created.
    pub(crate) undo: &'a str,
    /// Whether the commands create volumes that `tdx-pool cleanup` deletes: overlays without a domain.
    pub(crate) makes_orphans: bool,
}

/// What two commands leave if they run one after the other.
#[derive(Debug)]
struct Order {
    /// The host after the first of them.
    after_one: World,
    /// Their exit statuses, in the order of [`Race::commands`].
    statuses: [i32; 2],
    /// The host after both.
    after_both: World,
}

/// Starts the leader, and the follower when the leader has made a number of calls to libvirt. The leader's
/// libvirt log is a FIFO, which the shell reads. Prints the number of the leader's calls.
const RACE: &str = r#"
rm -f said; mkfifo said; exec 3<>said
follow() { [ -n "$begun" ] || { begun=1; { follower; echo $? >status.1; } >out.1 2>err.1 3>&- & }; }
begun= calls=0
[ $at -gt 0 ] || follow
{ LIBVIRT_LOG_FILTERS=1:libvirt LIBVIRT_LOG_OUTPUTS="1:file:$PWD/said" leader; echo $? >status.0
  echo end >said; } >out.0 2>err.0 3>&- &
while read -r line <&3; do
    case $line in end) break ;; *': debug : vir'*) calls=$((calls + 1)); [ $calls -lt $at ] || follow ;; esac
done
follow
wait
echo $calls
"#;

impl Race<'_> {
    /// Runs the two commands simultaneously, round after round. The commands lead in turn, and the follower
    /// starts at another call of the leader each time. Prints how often each pair of exit statuses occurred.
    fn run(&self, rig: &Rig, origin: &World, rounds: Range<usize>) {
        let mut orders = [None, None];
        let mut calls = [40, 40];
        let mut ends = BTreeMap::<[i32; 2], usize>::new();
        for round in rounds {
            let leader = round % 2;
            rig.shell(self.before).text();
            let at = calls[leader] * spread(round / 2) / 1000;
            let (runs, made) = self.together(rig, leader, at);
            calls[leader] = made;
            let statuses = runs.each_ref().map(|run| self.check_end(run));
            let host = World::of(rig);
            self.take_back(rig, origin);
            let mut differs = Vec::new();
            // The order in which the commands began is more likely.
            let is_legal = [leader, 1 - leader].into_iter().any(|first| {
                let order =
                    orders[first].get_or_insert_with(|| self.one_by_one(rig, first, origin));
                let differences = order.differences(first, statuses, &host);
                let is_legal = differences.is_empty();
                differs.push(differences);
                is_legal
            });
            let refused = statuses.iter().all(|status| *status != 0);
            let is_legal = is_legal
                || refused && {
                    rig.shell(self.before).text();
                    let untouched = World::of(rig);
                    self.take_back(rig, origin);
                    differs.push(host.differences(&untouched));
                    host == untouched
                };
            // If the new domain was destroyed during its start, the domain that it replaces is gone already,
            // and the error says so.
            let is_legal = is_legal || host == *origin && runs.iter().any(says_what_it_did);
            assert!(
                is_legal,
                "round {round}, second at call {at} of {made}: {statuses:?} left what no order \
                 leaves: {differs:#?} {runs:#?}"
            );
            *ends.entry(statuses).or_default() += 1;
        }
        println!("{} x {}: {ends:?}", self.commands[0], self.commands[1]);
    }

    /// Runs the commands one after the other, beginning with `first`.
    fn one_by_one(&self, rig: &Rig, first: usize, origin: &World) -> Order {
        rig.shell(self.before).text();
        let run = |command: usize| self.check_end(&rig.shell(self.commands[command]));
        let one = run(first);
        let after_one = World::of(rig);
        let other = run(1 - first);
        let after_both = World::of(rig);
        self.take_back(rig, origin);
        let statuses = if first == 0 { [one, other] } else { [other, one] };
        Order { after_one, statuses, after_both }
    }

    /// Runs both commands simultaneously. Returns them in their order, and the number of the leader's calls.
    fn together(&self, rig: &Rig, leader: usize, at: usize) -> ([Run; 2], usize) {
        let [first, second] = [self.commands[leader], self.commands[1 - leader]];
        let script =
            format!("at={at}; leader() {{ {first}; }}; follower() {{ {second}; }}; {RACE}");
        let calls = rig.shell(&script).text().trim().parse().unwrap();
        let read = |name: &str| fs::read_to_string(rig.scratch().join(name)).unwrap();
        let run = |place: usize| Run {
            line: self.commands[if place == 0 { leader } else { 1 - leader }].to_owned(),
            status: read(&format!("status.{place}")).trim().parse().ok(),
            stdout: read(&format!("out.{place}")),
            stderr: read(&format!("err.{place}")),
        };
        let runs = if leader == 0 { [run(0), run(1)] } else { [run(1), run(0)] };
        (runs, calls)
    }

    /// Returns the exit status. Fails unless the command printed a document, or an error with a hint or a
    /// cause.
    #[track_caller]
    fn check_end(&self, run: &Run) -> i32 {
        let status = run.status.unwrap_or_else(|| panic!("no exit status: {run:#?}"));
        if status == 0 {
            let lines = run.stderr.lines().filter(|line| !line.is_empty());
            assert!(lines.clone().all(|line| line.starts_with("warning: ")), "{run:#?}");
            Run { stderr: String::new(), ..run.clone() }.document();
            return status;
        }
        let error = run.error(status);
        let explains = !error["hint"].is_null() || error["causes"] != Value::Array(Vec::new());
        let is_expected = match status {
            5 => true,
            // The object was gone by then.
            4 => [" delete ", "--replace", "--overwrite"]
                .iter()
                .any(|word| self.commands.concat().contains(word)),
            // The other command ended the guest.
            1 => explains && !error["hint"].is_null(),
            _ => false,
        };
        assert!(is_expected && explains, "{run:#?}");
        status
    }

    /// Removes what was created. Everything must be as before, with nothing for a cleanup.
    #[track_caller]
    fn take_back(&self, rig: &Rig, origin: &World) {
        rig.shell(self.undo).text();
        let cleanup = rig.shell("tdx-pool cleanup --yes").document();
        assert!(self.makes_orphans || cleanup["changed"] == false, "{self:?} left {cleanup:#}");
        if rounds().is_none() {
            return; // the caller compares once at the end
        }
        let host = World::of(rig);
        assert!(host == *origin, "{self:?} left {:#?}", host.differences(origin));
    }
}

impl Order {
    /// The differences between the host that the commands left, with these exit statuses, and what this order
    /// leaves, beginning with `first`. Empty if the order explains the host. A failed command changes
    /// nothing.
    fn differences(&self, first: usize, statuses: [i32; 2], host: &World) -> Vec<String> {
        let alone = statuses[first] == 0 && statuses[1 - first] != 0;
        if self.statuses == statuses && self.after_both == *host || alone && self.after_one == *host
        {
            return Vec::new();
        }
        let expected = if alone { &self.after_one } else { &self.after_both };
        let differences = host.differences(expected);
        [vec![format!("{:?} after {:?}", statuses, self.statuses)], differences].concat()
    }
}

/// Whether a command failed and its error lists what it did.
fn says_what_it_did(run: &Run) -> bool {
    let error: Value = serde_json::from_str(&run.stderr).unwrap_or_default();
    error["error"]["applied"].as_array().is_some_and(|applied| !applied.is_empty())
}

/// Numbers between 0 and 1000 that fill the range evenly, for any count: multiples of the golden ratio.
fn spread(number: usize) -> usize {
    number * 618 % 1000
}
