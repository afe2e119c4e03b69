//! The host: what it is checked for, and how it is tuned.

pub mod check;
pub mod tuning;
