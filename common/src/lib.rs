//! What two or more of the tdx tools share, and nothing else.
//!
//! From the outside in: [`cli`] is the frame every `main` calls; it hands a verb a [`cli::Context`]
//! and prints the [`document::Document`] or [`error::Error`] that comes back ([`output`]). Verbs read
//! other tools' documents with [`input`], the machine through [`host`], libvirt through
//! `libvirt` and other programs through [`exec`].

#![cfg_attr(not(test), warn(unused_crate_dependencies))]

pub mod block;
pub mod bound;
pub mod cli;
pub mod code;
mod completions;
pub mod config;
pub mod device_lock;
pub mod document;
pub mod error;
pub mod exec;
pub mod host;
pub mod host_address;
pub mod host_storage;
pub mod identity;
pub mod image;
pub mod input;
pub mod interrupt;
#[cfg(feature = "libvirt")]
pub mod libvirt;
pub mod log;
pub mod metrics;
pub mod name;
mod nearest;
pub mod order;
pub mod output;
pub mod parallel;
pub mod pci;
mod prompt;
#[expect(unsafe_code, reason = "calls that the safe bindings do not have")]
pub mod raw;
mod reader;
pub mod secret;
pub mod sysfs;
mod table;
pub mod text;
pub mod units;
pub mod user;
pub mod xml;
pub mod yaml;

pub use code::Code;
pub use error::{Error, ErrorKind, IoContext, Result};
pub use nearest::nearest;
