//! Does the same work on many objects in parallel, such as waiting for guests.

use std::panic::resume_unwind;
use std::sync::{Mutex, PoisonError};
use std::thread::{Builder, ScopedJoinHandle};

use crate::error::{Error, Result};

/// Calls `work` with each of `things`, `at_once` at a time, and returns the results in the order of `things`. A panic
/// in `work` becomes a panic of the caller.
///
/// When the system refuses to start a thread, the threads that were started do the work.
pub fn map<T: Send, R: Send>(
    things: Vec<T>,
    at_once: usize,
    work: impl Fn(T) -> R + Sync,
) -> Vec<R> {
    let workers = things.len().min(at_once);
    if workers <= 1 {
        return things.into_iter().map(work).collect();
    }
    let queue = Mutex::new(things.into_iter().enumerate());
    let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).next();
    let worker = || {
        let mut done = Vec::new();
        while let Some((index, thing)) = next() {
            done.push((index, work(thing)));
        }
        done
    };
    let mut done = std::thread::scope(|scope| {
        let start = |_| Builder::new().spawn_scoped(scope, worker).ok();
        // This thread is one of the workers.
        let running: Vec<_> = (1..workers).map_while(start).collect();
        let mut done = worker();
        for thread in running {
            done.extend(join(thread));
        }
        done
    });
    done.sort_by_key(|(index, _)| *index);
    done.into_iter().map(|(_, result)| result).collect()
}

/// Calls two functions in parallel, or one after the other when the system refuses to start a thread.
pub fn both<A: Send, B>(first: impl Fn() -> A + Sync, second: impl FnOnce() -> B) -> (A, B) {
    std::thread::scope(|scope| match Builder::new().spawn_scoped(scope, &first) {
        Ok(thread) => {
            let second = second();
            (join(thread), second)
        }
        Err(_) => (first(), second()),
    })
}

fn join<T>(thread: ScopedJoinHandle<'_, T>) -> T {
    thread.join().unwrap_or_else(|panic| resume_unwind(panic))
}

/// How many domains are read in parallel: libvirtd writes the XML of one domain while another is parsed.
pub const DOMAINS: usize = 5;

/// How many guests are waited for in parallel. The number can be high, because waiting only costs polling.
pub const GUESTS: usize = 32;

/// All results, or the first error. `done` describes each successful result, for `applied` of that error.
pub fn settle<T>(
    results: Vec<Result<T>>,
    done: impl Fn(&T) -> Option<String>,
) -> Result<Vec<T>, Error> {
    let mut good = Vec::with_capacity(results.len());
    let mut failed = None;
    for result in results {
        match result {
            Ok(thing) => good.push(thing),
            Err(error) => failed = failed.or(Some(error)),
        }
    }
    match failed {
        None => Ok(good),
        Some(error) => Err(error.applied(good.iter().filter_map(done))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn map_returns_results_in_the_order_of_the_input() {
        let wait = |n: u64| {
            std::thread::sleep(std::time::Duration::from_millis(20 - n));
            n
        };
        for at_once in [1, 3, 100] {
            assert_eq!(map((0..20).collect(), at_once, wait), (0..20).collect::<Vec<_>>());
        }
        assert_eq!(map(Vec::new(), 4, wait), Vec::<u64>::new());
    }

    #[test]
    fn settle_returns_the_first_error_with_what_was_done() {
        let results = vec![Ok("a"), Err(Error::failed("b")), Ok("c"), Err(Error::failed("d"))];
        let error = settle(results, |name| (*name != "c").then(|| format!("did {name}")));
        let error = error.unwrap_err();
        assert_eq!(error.message(), "b");
        assert_eq!(error.to_document().error.applied, ["did a"]);
    }
}
