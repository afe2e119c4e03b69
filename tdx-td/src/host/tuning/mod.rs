//! Tuning a host: observed, planned, applied, and put back.
//!
//! [`observed`] reads the host, [`mod@plan`] (with [`ownership`]) is pure, and [`apply`] carries changes out and
//! undoes them. A [`mod@change`] is a new value for a [`tunable`]. A [`record`] keeps the former values and is
//! written before the first value is set. [`mod@restore_plan`] plans the way back, with one [`restore_step`] for each
//! tunable. [`persist`] writes what is to hold at every boot into files that are tunables as well, and [`boot`]
//! knows which other files would overrule them.

pub mod apply;
pub mod boot;
pub mod change;
pub mod directory;
pub mod disks;
pub mod item;
pub mod kernel_files;
pub mod ksm;
pub mod machine;
pub mod observed;
pub mod ownership;
pub mod persist;
pub mod plan;
pub mod record;
pub mod restore_plan;
pub mod restore_step;
pub mod tunable;
pub mod tune_plan;
