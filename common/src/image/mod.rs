//! What an image consists of: every file that QEMU opens with it.
//!
//! [`header`] reads which files an image names, [`name`] what QEMU makes of such a name, and
//! [`Images`] follows the names to their end. All of it is for protecting files and for nothing else:
//! a guest can write any header into its disk, so a name that was found here may keep a file from
//! being deleted or given away, and never causes a file to be opened by others, changed or deleted.

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
