//! What the file of `resolve` asks for, and how a device that VFIO has is known by its driver.

pub mod modalias;
pub mod passthrough_config;
