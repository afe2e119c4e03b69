//! Checks whether a disk is free, and finds every use of it.

pub mod disk_use;
pub mod exporters;
pub mod finding;
pub mod guests;
pub mod judge;
pub mod machine;
pub mod mounts;
pub mod processes;
pub mod qemu_lock;
pub mod vm_process;
