//! Locks on files by flock(2), and waiting for them.
//!
//! A lock belongs to the open file. The kernel releases the lock when the process ends, however it ends.

use std::fs::{File, TryLockError};
use std::io;
use std::ops::Deref;
use std::time::{Duration, Instant};

use crate::cli::interrupt;
use crate::error::Result;

/// What other locks a lock allows on the same file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LockKind {
    /// Other shared locks.
    Shared,
    /// None.
    Exclusive,
}

/// A file that is locked until this is dropped.
#[derive(Debug)]
pub struct FileLock(File);

/// What came of trying to lock a file.
#[derive(Debug)]
pub enum TryLock {
    /// The file is locked now.
    Locked(FileLock),
    /// Another open file has a lock that does not allow this one.
    Busy(File),
}

impl FileLock {
    /// Locks the file, without waiting.
    pub fn try_lock(file: File, kind: LockKind) -> io::Result<TryLock> {
        let is_locked = try_lock(&file, kind)?;
        Ok(if is_locked { TryLock::Locked(Self(file)) } else { TryLock::Busy(file) })
    }

    /// Makes a shared lock exclusive. Returns false where another open file is locked, too; this file may
    /// then be locked no more. Source: flock(2).
    pub fn try_upgrade(&self) -> io::Result<bool> {
        try_lock(&self.0, LockKind::Exclusive)
    }

    /// Releases the lock, also for programs that are being started meanwhile and still share the open file.
    pub fn unlock(self) {
        let _ = self.0.unlock();
    }
}

impl TryLock {
    /// The lock, unless the file is locked by another.
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

/// How long a lock is waited for.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// How long it is tried to take the lock. With a limit of zero it is tried once.
    pub limit: Duration,
    /// How long to sleep before the lock is tried again.
    pub pause: Duration,
    /// Whether a signal ends the waiting.
    pub is_interruptible: bool,
}

impl Patience {
    /// Calls `attempt` until it returns a value. Returns none when the limit has passed without one.
    ///
    /// Errors: those of `attempt`; `interrupted`, if a signal ends the waiting.
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
    fn waiting_ends_with_a_value_or_at_the_limit() {
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
