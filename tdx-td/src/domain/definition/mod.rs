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
pub use forwards::Forward;
pub(crate) use host_devices::{hostdev, inside};
pub use launch_security::security;
pub use parsed::{Definition, is_overlay, memory_bytes};
pub use read::{active, inactive};
