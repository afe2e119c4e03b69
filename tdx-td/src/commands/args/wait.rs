//! The flags for waiting for a new guest.

use clap::{Args, ValueEnum};
use common::cli::seconds;

use crate::domain::wait::Sign;

/// The flags for waiting for a new guest.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Waiting")]
pub struct WaitArgs {
    /// Wait until the guest has an address, its SSH server answers, or its guest agent answers
    #[arg(long, value_enum, value_name = "ip|ssh|agent")]
    pub wait: Option<Sign>,
    /// Longest time to wait
    #[arg(long, value_name = "SECONDS", default_value_t = 300, value_parser = seconds())]
    #[arg(requires = "wait")]
    pub timeout: u64,
    /// What to do with the new guest when the time is up
    #[arg(long, value_enum, value_name = "keep|delete", default_value = "keep", requires = "wait")]
    pub on_timeout: OnTimeout,
}

/// What to do with a guest that does not come up in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum OnTimeout {
    /// Keep the guest
    Keep,
    /// Delete the guest and its disks
    Delete,
}
