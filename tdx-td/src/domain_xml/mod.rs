//! Building domain definitions, and checking them before they are defined: the names that libvirt's schema knows,
//! libvirt's own validation, the ports that a definition opens, and its access to the base image.

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
