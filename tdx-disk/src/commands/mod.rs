//! The verbs: arguments, documents, and what each runs.

pub mod attach;
pub mod attached;
pub mod check;
pub mod connection;
pub mod detach;
pub mod list;
