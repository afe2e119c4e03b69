//! The facts that the checks of `host check` use, read once.

pub mod firmware;
pub mod libvirt;
mod machine;
mod reading;

pub use machine::{Cpu, Facts, Kvm, Vendor};
pub use reading::{Fact, fact};
