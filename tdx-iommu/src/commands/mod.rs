//! The verbs: arguments, documents, and what each runs.

pub mod check;
mod filter;
pub mod groups;
pub mod resolve;
pub mod scan;
