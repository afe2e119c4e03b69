//! Creating a domain: the request, the checks against the host, the plan, and carrying it out.
//!
//! [`request`] has what the user asked for. [`host_plan`] chooses what the host gives: disk, seed, devices and port.
//! [`plan::CreationPlan`] makes the definition of both and checks everything that can fail. [`apply`] creates the domain,
//! or undoes its steps.

pub mod apply;
pub mod attached_image;
pub mod base_image;
pub mod cloud_init;
pub mod definition_source;
pub mod disk;
pub mod disk_plan;
mod existing;
pub mod host_plan;
pub mod identity;
pub mod plan;
pub mod ports;
pub mod request;
pub mod settings;
