//! The files that an image consists of: every file that QEMU opens with it.
//!
//! [`header`] reads the names in an image, [`name`] parses such a name as QEMU does, and [`Images`] follows
//! the names to their end. The results serve only to protect files. A guest can write any header into its
//! disk. A name that was found here can therefore keep a file from being deleted or given away, but never
//! causes a file to be opened by others, changed or deleted.

mod argument;
mod file_key;
pub mod header;
mod image_files;
pub mod local_files;
pub mod name;
mod name_json;
mod read;
mod vmdk;

pub use crate::image::image_files::{Below, Images, Unknown, UnknownReason};
pub use argument::add_paths;
pub use file_key::{FileKey, canonical, contains, keys};
