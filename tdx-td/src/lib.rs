//! Trust domains and ordinary guests on libvirt: create, list, inspect, stop, delete.
//!
//! ```sh
//! tdx-td list --json | jq -r '.items[] | select(.state=="running") | .name' | xargs -n1 tdx-td stop
//! ```
//!
//! One module a verb. Under them: [`request`] turns flags and configuration into what is wanted,
//! [`definition`] turns that into domain XML, [`domain`] reads domain XML back, [`disks`] says which
//! files are a domain's own, [`power`] gets a guest off.

mod cli;

pub mod addresses;
pub mod capability;
pub mod definition;
pub mod delete;
pub mod disks;
pub mod domain;
pub mod list;
pub mod metadata;
pub mod names;
pub mod new;
pub mod overlay;
pub mod power;
pub mod render;
pub mod request;
pub mod show;
pub mod start;
pub mod stop;
pub mod virsh;

pub use cli::Cli;
