//! Block devices: what each is, and what its bytes say.

pub mod blocks;
pub mod devt;
pub mod disk;
pub mod partitions;
pub mod signature;
pub mod udev;
