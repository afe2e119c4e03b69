//! Predicts the measurements of trust domains, replays event logs, and verifies quotes.
//!
//! ```sh
//! tdx-td render -i guest.qcow2 | tdx-attest measure - | tdx-attest verify quote.bin --collateral c.json --expect -
//! ```
//!
//! [`commands`] has one file per verb. [`register`] names the measurement registers. [`measurement`] predicts the registers from a definition ([`domain`]) and its firmware ([`tdvf`]);
//! [`rtmr0`] predicts the first events of RTMR0. [`event_log`] replays event logs and compares them. [`quote`] reads
//! quotes and verifies them, [`policy`] reads what is demanded of a quote, and [`judgement`] compares the two: each
//! [`check`] has a result. [`pccs`] fetches collateral.

mod attributes;
pub mod check;
mod cli;
pub mod commands;
pub mod domain;
pub mod event_log;
pub mod judgement;
pub mod measurement;
pub mod pccs;
pub mod policy;
pub mod prediction;
pub mod quote;
pub mod register;
pub mod rtmr0;
pub mod tdvf;
pub mod time;

pub use cli::Cli;
