//! Creating a domain: the request, the checks against the host, the plan, and carrying it out.
//!
//! [`plan::CreationPlan`] checks everything that can fail. [`apply`] creates the domain, or undoes its steps.

pub mod apply;
pub mod attached_image;
pub mod base_image;
pub mod cloud_init;
pub mod definition_source;
pub mod disk;
pub mod disk_plan;
mod existing;
pub mod identity;
pub mod plan;
pub mod ports;
pub mod request;
pub mod settings;
