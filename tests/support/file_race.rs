//! Two simultaneous commands that change one host, where the host is made of files (`--sysroot`).

#![expect(clippy::print_stdout, reason = "the figures, for --nocapture")]
#![expect(clippy::disallowed_methods, reason = "tests start programs as users do")]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::{Mutex, mpsc};
use std::thread::JoinHandle;

use serde_json::Value;

use super::steps::{Moment, moments, walk_here, walk_here_beside};
use super::tools::{Run, bin};
use super::wait::is_waiting;

/// Rounds of each race, unless `TDX_ROUNDS` sets another number.
const ROUNDS: usize = 2;

/// The files of a host, with their modes.
pub(crate) type Files = BTreeMap<PathBuf, (u32, Vec<u8>)>;

/// Two commands that change one host.
pub(crate) struct FileRace<'a> {
    /// The two command lines, split at spaces.
    pub(crate) commands: [&'a str; 2],
    /// Command lines that prepare the host.
    pub(crate) before: &'a [&'a str],
    /// A command line that restores the host.
    pub(crate) undo: &'a str,
    /// Reads the state of the host.
    pub(crate) state: &'a dyn Fn() -> Files,
}

/// What the commands leave if they run one after the other.
struct Order {
    after_one: Files,
    statuses: [i32; 2],
    after_both: Files,
}

impl FileRace<'_> {
    /// Stops one command at a step that changes something, starts the other command there, and continues the
    /// first when the other one has ended or waits. The commands lead in turn. Prints how often each pair of
    /// exit statuses occurred.
    pub(crate) fn run(&self) {
        let origin = (self.state)();
        let orders = [self.one_by_one(0, &origin), self.one_by_one(1, &origin)];
        self.prepare();
        let untouched = (self.state)();
        self.take_back(&origin);
        let mut ends = BTreeMap::<[i32; 2], usize>::new();
        let rounds = std::env::var("TDX_ROUNDS").map_or(ROUNDS, |rounds| rounds.parse().unwrap());
        let mut steps = [None, None];
        for round in 0..rounds {
            let first = round % 2;
            let moments = steps[first].get_or_insert_with(|| self.moments(first, &origin));
            self.prepare();
            // The multiples of the golden ratio fill the range evenly.
            let Some(moment) = moments.get((round / 2 + 1) * 618 % 1000 * moments.len() / 1000)
            else {
                panic!("{} changes nothing", self.commands[first]);
            };
            let (first_line, other_line) = (self.commands[first], self.commands[1 - first]);
            let other = Mutex::new(None);
            let act = || *other.lock().unwrap() = Some(start_beside(other_line.to_owned()));
            let walk = walk_here_beside(first_line, moment.clone(), &act);
            let other = other.into_inner().unwrap().map(|other| other.join().unwrap());
            let other = other.unwrap_or_else(|| panic!("{moment:?} did not come: {walk:#?}"));
            let (one, two) = (check_end(&walk.run), check_end(&other));
            let statuses = if first == 0 { [one, two] } else { [two, one] };
            let now = (self.state)();
            let refused = one != 0 && two != 0;
            let is_legal = [0, 1].iter().any(|n| orders[*n].explains(*n, statuses, &now))
                || refused && now == untouched;
            assert!(is_legal, "round {round}, {moment:?}: {statuses:?} {:#?} {other:#?}", walk.run);
            *ends.entry(statuses).or_default() += 1;
            self.take_back(&origin);
        }
        println!("{} x {}: {ends:?}", self.commands[0], self.commands[1]);
    }

    /// The moments at which a command can be stopped.
    fn moments(&self, command: usize, origin: &Files) -> Vec<Moment> {
        self.prepare();
        let walk = walk_here(self.commands[command], None);
        check_end(&walk.run);
        self.take_back(origin);
        moments(&walk.steps, false)
    }

    fn prepare(&self) {
        for line in self.before {
            run(line).document();
        }
    }

    #[track_caller]
    fn take_back(&self, origin: &Files) {
        run(self.undo).document();
        assert_eq!((self.state)(), *origin, "{:?}", self.commands);
    }

    fn one_by_one(&self, first: usize, origin: &Files) -> Order {
        self.prepare();
        let one = check_end(&run(self.commands[first]));
        let after_one = (self.state)();
        let two = check_end(&run(self.commands[1 - first]));
        let after_both = (self.state)();
        self.take_back(origin);
        let statuses = if first == 0 { [one, two] } else { [two, one] };
        Order { after_one, statuses, after_both }
    }
}

impl Order {
    /// Whether the commands, which ended with these exit statuses, left what this order leaves. A failed
    /// command changes nothing.
    fn explains(&self, first: usize, statuses: [i32; 2], now: &Files) -> bool {
        let alone = statuses[first] == 0 && statuses[1 - first] != 0;
        self.statuses == statuses && self.after_both == *now || alone && self.after_one == *now
    }
}

/// Starts a command, and returns when it has ended or waits: for a lock, or before its next look. A thread
/// returns its end, because a tracer would trace a child of its own thread.
fn start_beside(line: String) -> JoinHandle<Run> {
    let (sender, is_going) = mpsc::channel();
    let thread = std::thread::spawn(move || {
        let mut child = command(&line).spawn().unwrap();
        while child.try_wait().unwrap().is_none() && !is_waiting(child.id()) {
            std::thread::yield_now();
        }
        sender.send(()).unwrap();
        let output = child.wait_with_output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
        Run { line, status: output.status.code(), stdout, stderr }
    });
    is_going.recv().unwrap();
    thread
}

fn command(line: &str) -> Command {
    let (tool, arguments) = line.split_once(' ').unwrap();
    let mut command = Command::new(bin(tool));
    command.args(arguments.split(' ')).stdin(Stdio::null());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn run(line: &str) -> Run {
    Run::of(command(line), b"")
}

/// Returns the exit status. Fails unless the command printed a document, or an error with a hint or a cause.
#[track_caller]
fn check_end(run: &Run) -> i32 {
    if run.status == Some(0) {
        run.document();
        return 0;
    }
    let error = run.error(5);
    let explains = !error["hint"].is_null() || error["causes"] != Value::Array(Vec::new());
    assert!(explains, "{run:#?}");
    5
}
