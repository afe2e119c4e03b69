//! PCI devices and IOMMU groups: scan them, judge what can be given to a guest.
//!
//! ```sh
//! tdx-iommu scan | jq '.items[] | select(.iommu_group==12)' | tdx-iommu check -
//! ```
//!
//! One module a verb. Under them, [`inventory`] reads the machine: its [`device`]s, its groups and
//! what the host uses ([`usage`]). [`judgement`] is pure: the inventory, what is asked for, and out
//! come stable codes. [`wishes`] is what a user wrote of guests and their devices. [`holders`] sees who has a device open, for those who can wait for that.

mod cli;
mod filter;
mod sysfs;

pub mod check;
pub mod class;
pub mod config_space;
pub mod device;
pub mod explanation;
pub mod framebuffer;
pub mod groups;
pub mod holders;
pub mod identity;
pub mod inventory;
pub mod judgement;
pub mod modalias;
pub mod names;
pub mod path;
pub mod request;
pub mod resolve;
pub mod role;
pub mod scan;
pub mod usage;
pub mod wishes;

pub use cli::Cli;
