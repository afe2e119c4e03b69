//! Locks on files by flock(2), with a limit on the time to wait for them.
//!
//! A lock belongs to the open file. The kernel releases the lock when the process ends, however it ends.

use std::fs::{File, TryLockError};
use std::io;
use std::ops::Deref;
use std::time::{Duration, Instant};

use crate::cli::interrupt;
use crate::error::Result;

/// Whether other locks are allowed on the same file at the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LockKind {
    /// Other shared locks are allowed.
    Shared,
    /// No other lock is allowed.
    Exclusive,
}

/// A locked file. The lock lasts until this value is dropped.
#[derive(Debug)]
pub struct FileLock(File);

/// The result of an attempt to lock a file.
#[derive(Debug)]
pub enum TryLock {
    /// The file is locked.
    Locked(FileLock),
    /// Another open file description has a lock that does not allow this one. The file is returned.
    Busy(File),
}

impl FileLock {
    /// Locks the file, without waiting.
    pub fn try_lock(file: File, kind: LockKind) -> io::Result<TryLock> {
        let is_locked = try_lock(&file, kind)?;
        Ok(if is_locked { TryLock::Locked(Self(file)) } else { TryLock::Busy(file) })
    }

    /// Makes a shared lock exclusive. Returns false when another open file has a lock on the file; then this lock may
    /// be lost. Source: flock(2).
    pub fn try_upgrade(&self) -> io::Result<bool> {
        try_lock(&self.0, LockKind::Exclusive)
    }

    /// Releases the lock, even while a program that is being started still shares the open file.
    pub fn unlock(self) {
        let _ = self.0.unlock();
    }
}

impl TryLock {
    /// The lock; none when another open file has it.
    pub fn locked(self) -> Option<FileLock> {
        match self {
            Self::Locked(lock) => Some(lock),
            Self::Busy(_) => None,
        }
    }
}

impl Deref for FileLock {
    type Target = File;

    fn deref(&self) -> &File {
        &self.0
    }
}

fn try_lock(file: &File, kind: LockKind) -> io::Result<bool> {
    let locked = match kind {
        LockKind::Shared => file.try_lock_shared(),
        LockKind::Exclusive => file.try_lock(),
    };
    match locked {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// How long to wait for a lock.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// How long to try to take the lock. A limit of zero means one attempt.
    pub limit: Duration,
    /// How long to sleep between two attempts.
    pub pause: Duration,
    /// Whether a signal ends the wait.
    pub is_interruptible: bool,
}

impl Patience {
    /// Calls `attempt` until it returns a value. Returns none when the limit has passed without a value.
    ///
    /// Errors: those of `attempt`; `interrupted`, if a signal ends the wait.
    pub fn wait_for<T>(self, mut attempt: impl FnMut() -> Result<Option<T>>) -> Result<Option<T>> {
        let end = Instant::now() + self.limit;
        loop {
            let value = attempt()?;
            if value.is_some() || Instant::now() >= end {
                return Ok(value);
            }
            if self.is_interruptible {
                interrupt::sleep(self.pause)?;
            } else {
                std::thread::sleep(self.pause);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_lasts_until_it_is_dropped() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let lock = |kind| {
            let file = File::open(file.path()).unwrap();
            FileLock::try_lock(file, kind).unwrap().locked()
        };
        let first = lock(LockKind::Shared).unwrap();
        let second = lock(LockKind::Shared).unwrap();
        assert!(lock(LockKind::Exclusive).is_none());
        assert!(!first.try_upgrade().unwrap());
        drop(second);
        assert!(first.try_upgrade().unwrap());
        assert!(lock(LockKind::Shared).is_none());
        drop(first);
        assert!(lock(LockKind::Exclusive).is_some());
    }

    #[test]
    fn wait_for_ends_with_a_value_or_at_the_limit() {
        let pause = Duration::from_millis(1);
        let wait = |limit| Patience { limit, pause, is_interruptible: false };
        let mut tries = 0;
        let third = wait(Duration::from_secs(60)).wait_for(|| {
            tries += 1;
            Ok((tries == 3).then_some(tries))
        });
        assert_eq!(third.unwrap(), Some(3));
        let mut tries = 0;
        let none = wait(Duration::ZERO).wait_for(|| {
            tries += 1;
            Ok(None::<()>)
        });
        assert_eq!((none.unwrap(), tries), (None, 1));
    }
}
