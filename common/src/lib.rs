//! Shared code of the tdx tools: code that two or more tools use.
//!
//! Every `main` calls [`cli`], which parses the command line, runs the verb and prints either the
//! [`document::Document`] or the [`error::Error`] that the verb returns. Verbs read other tools' documents
//! with [`document::input`], the machine with [`system`] and libvirt with `libvirt`.

#![cfg_attr(not(test), warn(unused_crate_dependencies))]

pub mod cli;
pub mod code;
pub mod device_state;
pub mod document;
pub mod error;
pub mod fields;
pub mod image;
#[cfg(feature = "libvirt")]
pub mod libvirt;
pub mod name;
mod nearest;
pub mod parallel;
pub mod path;
pub mod secret;
pub mod shell;
pub mod system;
pub mod td_quote;
pub mod text;
pub mod undo;
pub mod units;
pub mod xml;
pub mod yaml;

pub use code::Code;
pub use error::{Error, ErrorKind, IoContext, Result};
pub use nearest::nearest;
