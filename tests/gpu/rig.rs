//! `tdx-gpu`: tests that need a machine of their own (rig 2). `make test-rigs` runs them.

#[allow(dead_code, reason = "a binary uses a part of it")]
#[path = "../support"]
mod support {
    pub(crate) mod kernel;
    pub(crate) mod rig;
    pub(crate) mod steps;
    pub(crate) mod table;
    pub(crate) mod tools;
    pub(crate) mod wait;
}

use support::kernel::{Kernel, SharedKernel};

/// The kernel for all tests that need only its devices.
static KERNEL: SharedKernel = SharedKernel::new(Kernel::start);

mod asleep_rig;
mod bind_rig;
mod parallel_rig;
