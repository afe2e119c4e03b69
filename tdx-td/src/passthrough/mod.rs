//! Devices of the host for one guest: judged with the rest of its plan, taken when it is made, given back
//! when it goes.

pub mod change;
mod devices;
pub mod item;
pub mod plan;
mod request;
pub mod resolution;
mod start;

pub use devices::Devices;
pub use request::{CcMode, DeviceRequest};
pub use start::{assigned_devices, preview_start, reassignment, start_or_resume, with_devices};
