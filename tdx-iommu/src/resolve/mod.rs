//! The passthrough configuration: the requests for devices, and the devices of the machine that match them.

pub mod modalias;
pub mod passthrough_config;
pub mod resolution;
mod selection;
