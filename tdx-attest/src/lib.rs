//! Predicts the measurements of trust domains, replays event logs, and verifies quotes.
//!
//! ```sh
//! tdx-td render -i guest.qcow2 | tdx-attest measure - | tdx-attest verify quote.bin --collateral c.json --expect -
//! ```
//!
//! [`commands`] has one file per verb. [`register`] names the measurement registers, and [`expected`] reads their
//! expected values. [`measurement`] predicts the registers from a definition ([`domain`]) and its firmware ([`tdvf`]);
//! [`rtmr0`] predicts the first events of RTMR0.

mod cli;
pub mod commands;
pub mod domain;
pub mod expected;
#[allow(dead_code, reason = "event logs and quotes use more of it")]
mod fields;
pub mod measurement;
pub mod register;
pub mod rtmr0;
pub mod tdvf;

pub use cli::Cli;
