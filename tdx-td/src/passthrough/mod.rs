//! Host devices of guests: checked with the plan of a guest, bound when it is created, released when it is
//! deleted.

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
