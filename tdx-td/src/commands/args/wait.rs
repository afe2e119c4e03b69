//! The flags for waiting for a new guest.

use clap::{Args, ValueEnum};
use common::cli::seconds;

use crate::domain::wait::Sign;

/// The flags for waiting for a new guest.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Waiting")]
pub struct WaitArgs {
    /// Wait until the guest has reached this state
    #[arg(long, value_enum, value_name = "ip|ssh|agent")]
    pub wait: Option<Sign>,
    /// Maximum time to wait, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 300, value_parser = seconds())]
    #[arg(requires = "wait")]
    pub timeout: u64,
    /// Action on the new guest when --timeout has expired
    #[arg(long, value_enum, value_name = "keep|delete", default_value = "keep", requires = "wait")]
    pub on_timeout: OnTimeout,
}

/// The action on a guest that has not reached the state of `--wait` within `--timeout`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum OnTimeout {
    /// Keep the guest
    Keep,
    /// Delete the guest and its disks
    Delete,
}
