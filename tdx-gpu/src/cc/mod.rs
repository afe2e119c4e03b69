//! Reads, sets and restores the confidential-computing mode of NVIDIA GPUs.

pub mod gpu_tools;
pub mod mode;
pub mod setting;
