//! Shows PCI devices and IOMMU groups, and checks which devices can be given to a guest.
//!
//! ```sh
//! tdx-iommu scan | jq '.items[] | select(.iommu_group==12)' | tdx-iommu check -
//! ```
//!
//! [`commands`] has one file per verb. [`inventory`] reads the machine: its devices, its groups and what the host uses.
//! [`judge`] maps an inventory and a request to stable codes, without reading the machine. [`resolve`] reads the
//! declarative passthrough configuration.

mod cli;
pub mod commands;
pub mod inventory;
pub mod judge;
pub mod resolve;

pub use cli::Cli;
