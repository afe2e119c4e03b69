//! Creates, lists, inspects, stops and deletes guests on libvirt: trust domains and ordinary guests.
//!
//! ```sh
//! tdx-td list --json | jq -r '.items[] | select(.state=="running") | .name' | xargs -n1 tdx-td stop
//! ```
//!
//! [`commands`] has one file for each verb. [`create`] creates a domain or undoes its steps. [`domain_xml`] builds
//! and checks definitions. [`domain`] reads existing domains. [`remove`] deletes domains with their own files.
//! [`security`] has launch security and attestation, [`evidence`] the quotes of trust domains, [`passthrough`] host devices, and [`scenario`] the defaults for
//! kinds of guests. [`host`] checks and tunes the machine. [`capability`] and [`firmware`] find out what it supports.

pub mod capability;
mod cli;
pub mod commands;
pub mod create;
pub mod domain;
pub mod domain_xml;
pub mod evidence;
pub mod firmware;
pub mod host;
pub mod passthrough;
pub mod remove;
pub mod scenario;
pub mod security;

pub use cli::Cli;
