//! The same work on many things at once, such as waiting for guests.

use std::panic::resume_unwind;
use std::sync::{Mutex, PoisonError};
use std::thread::{Builder, ScopedJoinHandle};

use crate::error::{Error, Result};

/// Does `work` to everything, `at_once` things at a time, and returns what came out in the order of
/// `things`. A panic in `work` goes on here.
///
/// Where the system gives fewer threads, as many things are worked on at once as there are threads.
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

/// Does two things at once, or one after the other where the system gives no thread.
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

/// How many domains are read at once: while libvirtd writes the XML of one, another is parsed.
pub const DOMAINS: usize = 5;

/// How many guests are waited for at once: waiting costs a poll and nothing else.
pub const GUESTS: usize = 32;

/// All results, or the first failure's error with what `done` says of those that worked.
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
    fn results_come_in_the_order_of_the_things() {
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
    fn the_first_failure_tells_what_was_done() {
        let results = vec![Ok("a"), Err(Error::failed("b")), Ok("c"), Err(Error::failed("d"))];
        let error = settle(results, |name| (*name != "c").then(|| format!("did {name}")));
        let error = error.unwrap_err();
        assert_eq!(error.message(), "b");
        assert_eq!(error.to_document().error.applied, ["did a"]);
    }
}
