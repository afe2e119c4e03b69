//! Access to libvirt: connections, errors with exit codes, and calls that the [`virt`] crate lacks.
//!
//! For all other calls, use the [`virt`] crate by way of [`Libvirt::connect`].

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
