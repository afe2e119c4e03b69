//! The verbs, one module each: the arguments, the items and the code that runs the verb.

pub mod collateral;
pub mod measure;
pub mod replay;
pub mod verify;
