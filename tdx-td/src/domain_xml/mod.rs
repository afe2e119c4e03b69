//! A domain definition judged before it is defined: the names that libvirt's schema knows, libvirt's own
//! validation, the ports that the definition opens, and what it does to the base image.

pub mod address;
pub mod base_image;
pub mod builder;
pub mod hostfwd;
pub mod listeners;
pub mod part;
pub mod raw_listeners;
pub mod schema;
pub mod template;
pub mod validation;
