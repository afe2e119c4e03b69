//! Trust domains and ordinary guests on libvirt: create, list, inspect, stop, delete.
//!
//! ```sh
//! tdx-td list --json | jq -r '.items[] | select(.state=="running") | .name' | xargs -n1 tdx-td stop
//! ```
//!
//! [`commands`] has one verb a file. [`create`] makes a domain or undoes what it began, [`domain_xml`]
//! writes and judges definitions, [`domain`] reads domains that exist, and [`remove`] deletes them with the
//! files that were made for them. [`security`] is how a guest is protected from its host, [`passthrough`]
//! which host devices it has, [`scenario`] the defaults for a kind of guest. [`host`] checks and tunes
//! the machine; [`capability`] and [`firmware`] say what it can run.

pub mod capability;
mod cli;
pub mod commands;
pub mod create;
pub mod domain;
pub mod domain_xml;
pub mod firmware;
pub mod host;
pub mod passthrough;
pub mod remove;
pub mod scenario;
pub mod security;

pub use cli::Cli;
