//! The verbs: arguments, documents, and what each runs.

pub mod cleanup;
pub mod delete;
pub mod ensure;
pub mod import;
pub mod info;
pub mod list;
pub mod pool_args;
pub mod volumes;
