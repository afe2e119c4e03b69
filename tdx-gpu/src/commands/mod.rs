//! The verbs, one module each: the arguments, the items and the code that runs the verb.

pub mod bind;
pub mod cc;
pub mod check;
pub mod hostdev;
pub mod list;
pub mod unbind;
