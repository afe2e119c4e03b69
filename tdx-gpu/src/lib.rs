//! Binds PCI devices to VFIO and releases them, sets the confidential-computing mode, and writes `<hostdev>` XML.
//!
//! ```sh
//! tdx-iommu scan --vendor 10de --class 03 | tdx-gpu bind - | tdx-td new -i guest.qcow2 --devices -
//! ```
//!
//! [`commands`] has one file per verb. [`vfio`] binds and releases devices, [`cc`] reads and sets the
//! confidential-computing mode, and [`boot`] binds recorded devices at every boot.
//! [`device_assignment`] does all of that for one domain.

pub mod boot;
pub mod cc;
mod cli;
pub mod commands;
pub mod device_assignment;
pub mod vfio;

pub use cli::Cli;
