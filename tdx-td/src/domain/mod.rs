//! Existing domains: definitions, power states, addresses.

pub mod addresses;
pub mod definition;
pub mod guest_exec;
pub mod item;
pub mod lookup;
pub mod metadata;
pub mod observer;
pub mod power;
pub mod purpose;
pub mod ssh_target;
pub mod wait;
