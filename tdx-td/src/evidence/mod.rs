//! Evidence of a running trust domain: the quote for a nonce, and the event log of the guest's firmware.
//!
//! [`report_request`] and [`event_log`] read both through the guest agent, [`quote`] finds the nonce in the quote, and
//! [`directory`] writes the files. Nothing here verifies a signature: `quote.bin` is for a verifier.

pub mod directory;
pub mod event_log;
pub mod item;
pub mod nonce;
pub mod quote;
pub mod report_request;
