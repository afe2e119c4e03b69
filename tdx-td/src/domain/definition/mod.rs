//! The definition of a domain: its XML, parsed.

mod boot;
mod disks;
mod document;
mod forwards;
mod host_devices;
mod image_format;
mod launch_security;
mod parsed;
mod read;
#[cfg(test)]
mod tests;

pub use disks::{Chain, chains_of};
pub use forwards::SshForward;
pub(crate) use host_devices::{device_behind, hostdev_address};
pub use launch_security::security;
pub use parsed::{Definition, is_overlay_name, memory_bytes};
pub use read::{active, inactive};
