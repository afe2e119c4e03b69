//! Whole disks of the host for guests: judge whether one is free, attach it, detach it.
//!
//! ```sh
//! tdx-disk list --json | jq '.items[] | select(.available and .model=="X")' | tdx-disk attach vm -
//! ```
//!
//! [`commands`] has one verb a file. [`block`] reads what a disk is, [`availability`] judges whether it is
//! free, and [`attach`] gives it to a domain.

pub mod attach;
pub mod availability;
pub mod block;
mod cli;
pub mod commands;

pub use cli::Cli;
