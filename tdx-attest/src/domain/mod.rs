//! The definition of a trust domain, as far as measurements follow from it.

mod input;
mod memory;
mod trust_domain;

pub use input::{Definition, Source};
pub use trust_domain::{Attributes, Owner, TrustDomain};
