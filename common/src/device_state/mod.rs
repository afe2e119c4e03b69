//! The state that is kept of devices: who changes one now, and which were taken from the host.

pub mod bound_devices;
pub mod device_lock;
