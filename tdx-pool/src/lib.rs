//! Manages the storage pool of guests: creates it, imports base images, shows volumes, deletes orphans.
//!
//! ```sh
//! tdx-pool import guest.qcow2 | tdx-td new --base -
//! ```
//!
//! [`commands`] has one file per verb. The verbs work on a [`pool`], its [`volume`]s, and the [`image`] files of the
//! volumes. [`import`] copies images into a pool. [`references`] finds the domains and images that need a file; every
//! deletion asks it first.

mod cli;
pub mod commands;
pub mod image;
pub mod import;
pub mod pool;
pub mod references;
pub mod volume;

pub use cli::Cli;
