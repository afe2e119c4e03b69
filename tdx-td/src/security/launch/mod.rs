//! The launch security of guests.

pub mod fixed_bytes;
mod kind;
pub mod sev;
pub mod tdx;

pub use kind::{Launch, LaunchOptions};
