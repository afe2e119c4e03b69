//! The storage pool of TDX guests: create it, import base images, show it, clean orphans.
//!
//! ```sh
//! tdx-pool import guest.qcow2 | tdx-td new --base -
//! ```
//!
//! [`commands`] has one verb a file. The verbs work on a [`pool`], its [`volume`]s, and the [`image`] files
//! that these are. [`import`] copies images into a pool. [`references`] finds what needs a file: it is asked
//! before anything is deleted.

mod cli;
pub mod commands;
pub mod image;
pub mod import;
pub mod pool;
pub mod references;
pub mod volume;

pub use cli::Cli;
