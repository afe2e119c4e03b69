//! libvirt's XML: reading it, editing it in place, writing new pieces.
//!
//! [`Document`] keeps the text from which it was parsed and an index of the positions of its elements.
//! [`Node`] reads through that index. [`Edit`] replaces ranges of the text and keeps every other byte:
//! comments, metadata of other programs, quoting, layout.
//!
//! ```
//! use common::xml::{Document, Element};
//!
//! let document = Document::parse("<devices>\n  <disk/>\n</devices>\n")?;
//! let mut edit = document.edit();
//! edit.insert_into(document.root(), &Element::new("tpm").attr("model", "tpm-crb").to_xml()?);
//! assert_eq!(edit.finish()?, "<devices>\n  <disk/>\n  <tpm model='tpm-crb'/>\n</devices>\n");
//! # Ok::<(), common::error::Error>(())
//! ```
//!
//! Source: W3C Extensible Markup Language (XML) 1.0, fifth edition; Namespaces in XML 1.0.

mod attrs;
mod chars;
mod diff;
mod document;
mod edit;
mod element;
mod entry;
mod fault;
pub mod host_address;
mod items;
mod layout;
mod node;
mod parse;
mod pretty;
mod size;
#[cfg(test)]
mod tests;

pub use diff::unified_diff;
pub use document::Document;
pub use edit::Edit;
pub use element::Element;
pub use node::Node;
pub use pretty::pretty;
pub use size::size_bytes;
