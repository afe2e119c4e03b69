//! Changing the host devices of several domains. All changes are planned before the first is made, and undone if
//! one fails.

mod conflicts;
mod definition;
mod domain_plan;
mod hostdevs_plan;
mod live;

pub use hostdevs_plan::HostdevsPlan;
