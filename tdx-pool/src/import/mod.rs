//! Importing an image: the source, what the pool has already, the plan, and writing.

pub(crate) mod compare;
pub mod copy;
pub(crate) mod plan;
pub(crate) mod source;
pub(crate) mod temporary_file;
pub(crate) mod upload;
pub(crate) mod write;
