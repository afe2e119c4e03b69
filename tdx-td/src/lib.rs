//! Trust domains and ordinary guests on libvirt: create, list, inspect, stop, delete.
//!
//! ```sh
//! tdx-td list --json | jq -r '.items[] | select(.state=="running") | .name' | xargs -n1 tdx-td stop
//! ```
//!
//! One module a verb. Under them: [`image`] and [`settings`] turn flags and configuration into what is
//! wanted, [`builder`] turns that into domain XML, or [`fitting`] a user's template, [`creation`] makes it so or undoes it;
//! [`definition`] reads domain XML back; [`removal`] deletes domains and the files that were made for them; [`passthrough`] takes devices of the host and gives them back; [`attestation`] keeps the keys of AMD SEV guests and lets none run that measures wrong; [`power`] gets a guest on and off.

mod cli;

pub mod addresses;
pub mod attached_image;
pub mod attestation;
pub mod blueprint;
pub mod builder;
pub mod capability;
pub mod console;
pub mod creation;
pub mod definition;
pub mod delete;
pub mod dialect;
pub mod disk;
pub mod domain;
pub mod domain_xml;
pub mod drive;
pub mod firmware;
pub mod fitting;
pub mod host;
pub mod hostdevs;
pub mod hostfwd;
pub mod identity;
pub mod image;
pub mod launch;
pub mod list;
pub mod metadata;
pub mod names;
pub mod new;
pub mod overlay;
pub mod passthrough;
pub mod ports;
pub mod power;
pub mod removal;
pub mod render;
pub mod scenario;
pub mod seed;
pub mod settings;
pub mod show;
pub mod ssh;
pub mod ssh_target;
pub mod start;
pub mod stop;
pub mod template;
pub mod template_check;
pub mod template_disks;
pub mod virsh;
pub mod wait;

pub use cli::Cli;
