//! Changing the devices of several domains: all are planned before the first is touched, and put back when
//! one fails.

mod conflicts;
mod definition;
mod domain_plan;
mod hostdevs_plan;
mod live;

pub use hostdevs_plan::HostdevsPlan;
