//! Reads disk image files, from their headers, without running another program.
//!
//! This code treats every file as hostile: reads and allocations are bounded. A guest can write a qcow2 header into its
//! own raw disk, so a chain of headers may lead to files that QEMU would never open. Such a chain may protect files
//! from deletion, but is never a reason to trust them.

mod backing;
mod check;
mod description;
mod foreign;
mod format;
mod qcow2;
pub mod record;
mod source;
mod stated_format;
mod tables;

pub(crate) use crate::image::stated_format::header_length;
pub use crate::image::stated_format::{SaidFormat, StatedFormat, check_stated};
pub use backing::Backing;
pub use check::{check_base, check_kind, open, probe};
pub use description::Image;
pub use format::Format;

#[cfg(test)]
mod tests;
