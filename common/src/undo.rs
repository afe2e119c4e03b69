//! Undoes the steps of a command that fails half way.
//!
//! ```
//! use common::{Error, undo};
//!
//! let done: common::Result<()> = undo::on_failure(|undo| {
//!     // Create the volume, then record how to delete it again.
//!     undo.push("volume 'disk'", || Ok::<(), Error>(()));
//!     undo.applied("created pool 'default'");
//!     Err(Error::failed("cannot define the domain"))
//! });
//! let error = done.unwrap_err().to_document().error;
//! assert_eq!(error.applied, ["created pool 'default'"]);
//! assert!(error.left_behind.is_empty());
//! ```

use std::fmt;

use crate::error::{Error, Result};

/// The steps that undo the changes of a command so far, and the changes that remain.
///
/// A step owns the values that it needs: a new volume moves, with its lock, into the step that deletes the volume.
/// When the command succeeds, all steps are dropped without being run.
#[derive(Default)]
pub struct Undo<'a> {
    steps: Vec<Box<dyn FnOnce(Error) -> Error + 'a>>,
    applied: Vec<String>,
}

impl fmt::Debug for Undo<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Undo");
        shown.field("steps", &self.steps.len()).field("applied", &self.applied).finish()
    }
}

impl<'a> Undo<'a> {
    /// Records a step that undoes the last change. If the step fails, `object` is reported as left behind.
    pub fn push<E>(
        &mut self,
        object: impl Into<String>,
        step: impl FnOnce() -> Result<(), E> + 'a,
    ) {
        let object = object.into();
        self.push_with(move |error| match step() {
            Ok(()) => error,
            Err(_) => error.left_behind([object]),
        });
    }

    /// Records a step that itself adds to the error what it could not undo.
    pub fn push_with(&mut self, step: impl FnOnce(Error) -> Error + 'a) {
        self.steps.push(Box::new(step));
    }

    /// Records a change that remains when the command fails.
    pub fn applied(&mut self, change: impl Into<String>) {
        self.applied.push(change.into());
    }

    /// Runs all steps, the last one first. Returns `error` with the changes that remain and the changes that could
    /// not be undone.
    #[must_use]
    pub fn after(self, error: Error) -> Error {
        let error = error.applied(self.applied);
        self.steps.into_iter().rev().fold(error, |error, step| step(error))
    }
}

/// Runs `work`. If it fails, runs the steps that it has recorded, the last one first.
///
/// Errors: that of `work`, with the changes that remain and the changes that could not be undone.
pub fn on_failure<'a, T>(work: impl FnOnce(&mut Undo<'a>) -> Result<T>) -> Result<T> {
    let mut undo = Undo::default();
    match work(&mut undo) {
        Ok(value) => Ok(value),
        Err(error) => Err(undo.after(error)),
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    #[test]
    fn a_failure_runs_the_steps_in_reverse_and_reports_what_is_left_behind() {
        let ran = RefCell::new(Vec::new());
        let failed: Result<()> = on_failure(|undo| {
            for (name, is_undone) in [("first", true), ("second", false), ("third", false)] {
                let ran = &ran;
                undo.push(name, move || {
                    ran.borrow_mut().push(name);
                    if is_undone { Ok(()) } else { Err(Error::failed("still there")) }
                });
            }
            undo.applied("made the pool");
            undo.push_with(|error| error.left_behind(["a domain".to_owned()]));
            Err(Error::conflict("no"))
        });
        let error = failed.unwrap_err().to_document().error;
        assert_eq!(*ran.borrow(), ["third", "second", "first"]);
        assert_eq!(error.applied, ["made the pool"]);
        assert_eq!(error.left_behind, ["a domain", "third", "second"]);
        assert_eq!(error.message, "no");
    }

    #[test]
    fn on_failure_runs_no_step_after_success() {
        let done = on_failure(|undo| {
            undo.push("a file", || -> Result<()> { unreachable!("undone after success") });
            Ok(7)
        });
        assert_eq!(done.unwrap(), 7);
    }
}
