//! The host: checking whether it can run guests, and tuning it.

pub mod check;
pub mod tuning;
