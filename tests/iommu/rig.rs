//! `tdx-iommu`: tests that need a machine of their own (rig 2). `make test-rigs` runs them.

#[allow(dead_code, reason = "a binary uses a part of it")]
#[path = "../support"]
mod support {
    pub(crate) mod kernel;
    pub(crate) mod tools;
    pub(crate) mod wait;
}

mod kernel_rig;
