//! Templates: a user's domain XML with placeholders, as the original tdvirsh uses them.
//!
//! The original substitutes text, so a path with an ampersand, or with the word DOMAIN in it, breaks
//! the XML. Here every value is escaped. A placeholder counts only as a whole word outside of comments,
//! CDATA and processing instructions. The values of placeholders are not searched for placeholders.

pub mod checked;
pub mod dialect;
pub mod disks;
pub mod edits;
mod placeholders;
pub mod schema_check;

pub(crate) use placeholders::{BASE, OVERLAY, SEED};
pub use placeholders::{Template, Values};
