//! Block devices: what each is, and what its bytes say.

pub mod devices;
pub mod disk;
pub mod named_device;
pub mod partitions;
pub mod signature;
pub mod udev;
