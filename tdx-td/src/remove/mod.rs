//! Deleting domains: the guest is shut down, the definition removed, and the domain's own files deleted.
//!
//! A plan says which domains are meant. What is done to one is decided by what it is right then: it is read
//! again after the question, and again when its guest is off, and who needs its files is asked when its
//! definition is gone.

mod delete;
mod file_deletion;
mod item;
mod observed;
mod owned_files;
mod plan;
mod removal;
mod undefine;

pub use delete::{delete, preview, remove};
pub use item::{DeleteItem, KeptFile, RemovedDomain};
pub use plan::RemovalPlan;
pub use undefine::undo_definition;
