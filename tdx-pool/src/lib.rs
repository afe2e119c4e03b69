//! The storage pool of TDX guests: create it, import base images, show it, clean orphans.
//!
//! ```sh
//! tdx-pool import guest.qcow2 | tdx-td new --base -
//! ```
//!
//! [`commands`] has one verb a file. [`pool`], [`volume`] and [`image`] are what it works on, [`import`]
//! brings images in, and [`references`] answers who needs a file: nothing is deleted before it was asked.

mod cli;
pub mod commands;
pub mod image;
pub mod import;
pub mod pool;
pub mod references;
pub mod volume;

pub use cli::Cli;
