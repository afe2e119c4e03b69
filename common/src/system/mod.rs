//! Access to the machine: files below `--sysroot`, sysfs, block and PCI devices, other programs, system calls.

pub mod block;
pub mod devt;
pub mod exec;
pub mod file_lock;
pub mod host_storage;
pub mod open_files;
pub mod pci;
#[expect(unsafe_code, reason = "calls that the safe bindings do not have")]
pub mod syscalls;
pub mod sysfs;
pub mod sysroot;
pub mod user;
