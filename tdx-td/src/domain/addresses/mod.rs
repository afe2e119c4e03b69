//! The IP addresses of guests, from DHCP leases, the ARP table and guest agents.
//!
//! An address belongs to a guest's network card if its hardware address (MAC) is that of a card in
//! the domain XML. `ssh` and `--wait` use only those. All other addresses are listed separately: a guest with
//! Docker has 172.17.0.1 on its own bridge, and on the host the same address may be that of the host's bridge.

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
