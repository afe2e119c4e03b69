//! Arguments that several verbs have.

pub mod devices;
pub mod launch;
pub mod names;
pub mod scenario;
pub mod wait;
