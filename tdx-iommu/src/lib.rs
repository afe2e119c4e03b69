//! PCI devices and IOMMU groups: scan them, and judge which can be given to a guest.
//!
//! ```sh
//! tdx-iommu scan | jq '.items[] | select(.iommu_group==12)' | tdx-iommu check -
//! ```
//!
//! [`commands`] has one verb a file. [`inventory`] reads the machine: its devices, its groups and what the
//! host uses. [`judge`] is pure: it maps an inventory and a request to stable codes. [`resolve`] reads the
//! declarative passthrough configuration.

mod cli;
pub mod commands;
pub mod inventory;
pub mod judge;
pub mod resolve;

pub use cli::Cli;
