//! State that the tools keep about devices: which command works on a device now, and which devices were taken from
//! the host.

pub mod bound_devices;
pub mod device_lock;
