//! Predicts the measurements of trust domains, replays event logs, and verifies quotes.
//!
//! ```sh
//! tdx-td render -i guest.qcow2 | tdx-attest measure - | tdx-attest verify quote.bin --collateral c.json --expect -
//! ```
//!
//! [`commands`] has one file per verb. [`register`] names the measurement registers, and [`expected`] reads their
//! expected values.

mod cli;
pub mod commands;
pub mod expected;
pub mod register;

pub use cli::Cli;
