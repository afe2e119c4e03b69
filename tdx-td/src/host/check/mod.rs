//! The checks of `host check`. Facts are read once; the checks themselves are pure functions.

pub mod access;
pub mod code;
pub mod facts;
pub mod firmware;
pub mod guest_kind;
pub mod item;
pub mod judge;
pub mod libvirt;
pub mod memory;
pub mod sev;
pub mod tdx;
pub mod vfio;
