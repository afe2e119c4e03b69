//! Making a domain: the request, what the host allows, the plan, and carrying it out.
//!
//! [`plan::CreationPlan`] looks at everything that can fail, and [`apply`] makes the domain or undoes what it began.

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
