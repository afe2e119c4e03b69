//! The first events of RTMR0: what the firmware measures before it runs anything else.

mod event;
mod first_events;
mod ram;
mod secure_boot;
mod td_hob;

pub use event::{Certainty, PredictedEvent};
pub use first_events::first_events;
pub use ram::GuestMemory;
