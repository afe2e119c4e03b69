//! The verbs: arguments, documents, and what each runs.

pub mod bind;
pub mod cc;
pub mod check;
pub mod hostdev;
pub mod list;
pub mod unbind;
