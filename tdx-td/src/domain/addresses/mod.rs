//! Which IP addresses guests have: DHCP leases, the ARP table and guest agents.
//!
//! An address belongs to a guest's network card when its hardware address (MAC) is that of a card in
//! the domain XML. `ssh` and `--wait` use only those. All others are listed apart: a guest with
//! Docker has 172.17.0.1 on a bridge of its own, and on the host that may be the host's bridge.

pub mod agent;
mod guest;
mod mac;
mod seen;
#[cfg(test)]
mod tests;
mod this_host;

pub use guest::{GuestAddresses, OtherAddress};
pub use seen::SeenAddresses;
pub use this_host::ThisHost;
