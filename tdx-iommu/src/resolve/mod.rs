//! The passthrough configuration: which devices it asks for, and which devices of the machine these are.

pub mod modalias;
pub mod passthrough_config;
pub mod resolution;
mod selection;
