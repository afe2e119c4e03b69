//! Imports an image: the source, the comparison with the pool's volume, the plan, and the copy.

pub(crate) mod compare;
pub mod copy;
pub mod item;
pub mod plan;
mod progress;
pub(crate) mod replace;
pub mod request;
pub mod source;
pub(crate) mod temporary_file;
pub(crate) mod upload;
pub(crate) mod volume_comparison;
pub(crate) mod write;
