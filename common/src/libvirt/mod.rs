//! The seam to libvirt: connecting, errors with exit codes, and the calls its Rust binding lacks.
//!
//! Everything else goes through the [`virt`] crate itself, by way of [`Libvirt::connect`].

mod connection;
mod error;
mod hosts;
#[expect(unsafe_code, reason = "the binding leaves out a field of the error")]
mod last_error;
#[expect(unsafe_code, reason = "calls of the C library that its binding lacks, or gets wrong")]
mod raw;
mod target;
mod unplug;

pub use connection::{ConnectArgs, Libvirt, is_local};
pub use error::{Context, failure, is_gone};
pub use hosts::{Entry, Hosts};
pub use raw::{DhcpLease, LaunchMeasurement, State};
pub use target::Target;
pub use unplug::UnplugAnswer;
