//! The verbs, one module each: the arguments and the code that runs the verb.

pub mod cleanup;
pub mod delete;
pub mod ensure;
pub mod import;
pub mod info;
pub mod list;
pub mod pool_args;
pub mod volumes;
