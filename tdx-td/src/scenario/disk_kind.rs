//! The kinds of disks that a new guest can have.

/// What kind of disk is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiskKind {
    /// A copy-on-write image over a base.
    Overlay,
    /// One of its own, empty at first.
    New,
    /// The user's.
    Given,
}
