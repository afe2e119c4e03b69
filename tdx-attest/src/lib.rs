//! Predicts the measurements of trust domains, replays event logs, and verifies quotes.
//!
//! ```sh
//! tdx-td render -i guest.qcow2 | tdx-attest measure - | tdx-attest verify quote.bin --collateral c.json --expect -
//! ```
//!
//! [`commands`] has one file per verb. [`register`] names the measurement registers, and [`expected`] reads their
//! expected values. [`event_log`] replays event logs and compares them. [`quote`] reads quotes.

mod cli;
pub mod commands;
pub mod event_log;
pub mod expected;
mod fields;
pub mod quote;
pub mod register;

pub use cli::Cli;
