//! The event log of a trust domain (CCEL): what was measured into RTMR0 to RTMR3, in order.
//!
//! [`log`] reads the log. [`describe`] puts an event into words, and [`text`] tells whether the event's digest confirms
//! them. [`replay`] computes the registers. [`difference`] names the first event that differs from expected events, and
//! [`edit`] the event that keeps the log from a known register value. [`comparison`] compares a log with a quote and
//! with expected values, and [`warnings`] says what that leaves open.
//!
//! A log is unsigned: whoever supplies the log can write anything into it. A digest counts once the digests give the
//! registers of a quote whose signature was verified.

pub mod comparison;
pub mod describe;
pub mod difference;
pub mod edit;
pub mod event_type;
pub mod log;
pub mod replay;
pub mod text;
pub mod warnings;

#[cfg(test)]
pub(crate) mod sample;
