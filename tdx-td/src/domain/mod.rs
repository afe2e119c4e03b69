//! A domain that exists: its definition, its power state, its addresses.

pub mod addresses;
pub mod definition;
pub mod item;
pub mod metadata;
pub mod power;
pub mod ssh_target;
pub mod wait;
