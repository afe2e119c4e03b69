//! The verbs, one module each: the arguments, the items and the code that runs the verb.

pub mod attach;
pub mod attached;
pub mod check;
pub mod connection;
pub mod detach;
pub mod list;
