//! Whether a disk is free: what can be using it, and every reason that it is not free.

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
