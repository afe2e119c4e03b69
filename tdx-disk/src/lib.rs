//! Whole disks of the host for guests: judge whether one is free, attach it hot, detach it honestly.
//!
//! ```sh
//! tdx-disk list --json | jq '.items[] | select(.available and .model=="X")' | tdx-disk attach vm -
//! ```
//!
//! One module a verb.

mod cli;

pub mod blocks;
pub mod check;
pub mod connection;
pub mod disk;
pub mod exporters;
pub mod finding;
pub mod guests;
pub mod judgement;
pub mod list;
pub mod mounts;
pub mod named;
pub mod number;
pub mod partitions;
pub mod processes;
pub mod qemu_lock;
pub mod signature;
pub mod udev;

pub use cli::Cli;
