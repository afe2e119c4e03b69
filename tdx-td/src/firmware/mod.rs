//! Firmware builds: their descriptors, and libvirt's choice among them.

pub mod choice;
pub mod descriptor;
pub mod directory;
pub mod domain_query;
pub mod guest_query;
pub mod installed;
pub mod loaders;
pub mod query;
