//! Give PCI devices to guests and take them back: VFIO, confidential-computing mode, `<hostdev>`.
//!
//! ```sh
//! tdx-iommu scan --vendor 10de --class 03 | tdx-gpu bind - | tdx-td new -i guest.qcow2 --devices -
//! ```
//!
//! [`commands`] has one verb a file. [`vfio`] binds devices and gives them back, [`cc`] reads and sets the
//! confidential-computing mode, and [`boot`] binds recorded devices at every boot.
//! [`device_assignment`] does all of that for one domain.

pub mod boot;
pub mod cc;
mod cli;
pub mod commands;
pub mod device_assignment;
pub mod vfio;

pub use cli::Cli;
