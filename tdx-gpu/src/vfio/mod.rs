//! Binding devices to VFIO and giving them back: judged, planned, applied, undone.

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
