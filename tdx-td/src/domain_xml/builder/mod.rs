//! Domain XML for a new guest.
//!
//! A definition is a list of parts, each a function from what is wanted to elements. Launch security
//! is one more part: it adds its element and overrules the few others it must.
//! Source: <https://libvirt.org/formatdomain.html>.

mod definition;
mod devices;
mod disk;
mod element;
mod guest_definition;

pub use crate::domain_xml::builder::guest_definition::GuestDefinition;
pub(crate) use disk::{backing_store, end_of_chain};
pub(crate) use element::{pci_hole, utf8};
