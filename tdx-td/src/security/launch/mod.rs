//! How a guest is protected from its host.

pub mod blob;
mod kind;
pub mod sev;
pub mod tdx;

pub use kind::{Launch, LaunchOptions};
