//! The confidential-computing mode of NVIDIA GPUs: read, planned, set, restored.

pub mod gpu_tools;
pub mod mode;
pub mod setting;
