//! Block devices: their properties, and the signatures in their content.

pub mod devices;
pub mod disk;
pub mod named_device;
pub mod partitions;
pub mod signature;
pub mod udev;
