//! How a guest is protected from its host.

pub mod fixed_bytes;
mod kind;
pub mod sev;
pub mod tdx;

pub use kind::{Launch, LaunchOptions};
