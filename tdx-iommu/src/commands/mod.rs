//! The verbs, one module each: the arguments, the items and the code that runs the verb.

pub mod check;
mod filter;
pub mod groups;
pub mod resolve;
pub mod scan;
