//! Tuning a host, and restoring its previous values.
//!
//! [`observed`] reads the host. [`mod@plan`] (with [`ownership`]) plans the changes and is pure. [`apply`] makes the
//! changes and undoes them. A [`mod@change`] is a new value for a [`tunable`]. A [`record`] stores the previous
//! values and is written before the first value is set. [`mod@restore_plan`] plans the restoration, with one
//! [`restore_step`] for each tunable. [`persist`] composes the files that apply settings at boot, which are tunables
//! as well. [`boot`] finds other files that would override them.

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
