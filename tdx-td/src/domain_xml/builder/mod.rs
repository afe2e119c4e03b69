//! Builds the domain XML of a new guest.
//!
//! A definition is a list of parts. Each part is a function from the settings to elements. Launch security is one
//! more part: it adds its element and changes a few others.
//! Source: <https://libvirt.org/formatdomain.html>.

mod definition;
mod devices;
mod disk;
mod element;
mod guest_definition;

pub use crate::domain_xml::builder::guest_definition::GuestDefinition;
pub(crate) use disk::{backing_store, end_of_chain};
pub(crate) use element::{pci_hole, utf8};
