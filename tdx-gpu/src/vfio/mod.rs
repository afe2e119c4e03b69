//! Binds devices to VFIO and releases them: checks, plans, applies and undoes.

pub mod bars;
pub mod binding;
pub mod candidates;
pub mod dma_entry_limit;
pub mod driver;
pub mod driverctl;
pub mod hostdev;
pub mod in_use;
pub mod plan;
pub mod release;
pub mod releasing_device;
