//! Tuning a host: observed, planned, applied, and put back.
//!
//! [`observed`] is what there is, [`mod@plan`] is pure, as are [`claims`]; [`apply`] carries changes out and undoes them. A change is
//! a value of a [`knob`]. What each was goes into a [`record`] before the first is touched; [`mod@back`] plans the
//! way from there. What is to hold at every boot is written by [`persist`] into files that are knobs as well;
//! [`boot`] knows what other files have the last word.

pub mod apply;
pub mod back;
pub mod boot;
pub mod claims;
pub mod disks;
pub mod knob;
pub mod ksm;
pub mod machine;
pub mod observed;
pub mod persist;
pub mod plan;
pub mod record;
