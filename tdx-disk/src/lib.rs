//! Attaches whole host disks to guests, after a check that nothing else uses the disks, and detaches host disks from
//! guests.
//!
//! ```sh
//! tdx-disk list --json | jq '.items[] | select(.available and .model=="X")' | tdx-disk attach vm -
//! ```
//!
//! [`commands`] has one file per verb. [`block`] reads the properties of a disk, [`availability`] checks whether the
//! disk is free, and [`attach`] attaches the disk to a domain.

pub mod attach;
pub mod availability;
pub mod block;
mod cli;
pub mod commands;

pub use cli::Cli;
