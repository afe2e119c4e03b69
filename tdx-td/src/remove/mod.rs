//! Deleting domains: shutting the guest down, removing the definition, and deleting the domain's own files.
//!
//! A plan identifies the domains. Each domain is read again after the question, and again when its guest is off.
//! The users of its files are collected after its definition was removed.

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
