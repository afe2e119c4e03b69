//! Arguments that several verbs share.

pub mod access;
pub mod devices;
pub mod disk;
pub mod guest;
pub mod image;
pub mod launch;
pub mod names;
pub mod scenario;
pub mod wait;
