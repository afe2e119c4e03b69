//! Evidence of a running trust domain: the quote for a nonce, and the event log of the guest's firmware.
//!
//! [`report_request`] and [`event_log`] read both through the guest agent, and [`directory`] writes the files. Nothing
//! here verifies a signature: `quote.bin` is for a verifier.

pub mod directory;
pub mod event_log;
pub mod item;
pub mod report_request;
#[cfg(test)]
#[allow(dead_code, reason = "a crate uses a part of it")]
#[path = "../../../tests/support/quote.rs"]
mod sample;
