//! Whole disks of the host for guests: judge whether one is free, attach it hot, detach it honestly.
//!
//! ```sh
//! tdx-disk list --json | jq '.items[] | select(.available and .model=="X")' | tdx-disk attach vm -
//! ```
//!
//! One module a verb. Under them: [`blocks`] is which block device stands on which, [`disk`] what one
//! is, by [`udev`] and sysfs; [`judgement`] whether it is free, from [`mounts`], [`guests`],
//! [`processes`], [`exporters`] and [`signature`]s, each reason a [`finding`]. [`subject`] is the domain,
//! [`guest_disk`] what it has by its definitions, [`undefined_disk`] what its QEMU has beside that, [`target`] and [`element`] how it gets more, [`lock`] who may; [`attachment`] puts these
//! together.

mod cli;

pub mod advice;
pub mod attach;
pub mod attached;
pub mod attachment;
pub mod blocks;
pub mod check;
pub mod connection;
pub mod detach;
pub mod disk;
pub mod element;
pub mod exporters;
pub mod finding;
pub mod guest_disk;
pub mod guests;
pub mod judgement;
pub mod list;
pub mod lock;
pub mod mounts;
pub mod named;
pub mod number;
pub mod partitions;
pub mod processes;
pub mod qemu_lock;
pub mod signature;
pub mod subject;
pub mod target;
pub mod udev;
pub mod undefined_disk;
pub mod vm_process;

pub use cli::Cli;
