//! The kinds of disks that a new guest can have.

/// A kind of disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiskKind {
    /// A copy-on-write image backed by a base image.
    Overlay,
    /// A new, empty image.
    New,
    /// The image of `--vmimage`.
    Given,
}
