//! Waiting for a new guest.

use clap::{Args, ValueEnum};
use common::cli::seconds;

use crate::domain::wait::Sign;

/// What to wait for, and how long.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Waiting")]
pub struct WaitArgs {
    /// Wait until the guest has an address, its ssh answers, or its agent does
    #[arg(long, value_enum, value_name = "ip|ssh|agent")]
    pub wait: Option<Sign>,
    /// How long to wait
    #[arg(long, value_name = "SECONDS", default_value_t = 300, value_parser = seconds())]
    #[arg(requires = "wait")]
    pub timeout: u64,
    /// What becomes of a guest that does not come up in time
    #[arg(long, value_enum, value_name = "keep|delete", default_value = "keep", requires = "wait")]
    pub on_timeout: OnTimeout,
}

/// What becomes of a guest that does not come up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum OnTimeout {
    /// It stays
    Keep,
    /// It goes, with its disks
    Delete,
}
