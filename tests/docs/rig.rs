//! The packages in minimal Debian systems, and the pages whose commands need devices or TDX. `make test-rigs`
//! runs these tests.

#[allow(dead_code, reason = "a binary uses a part of it")]
#[path = "../support"]
mod support {
    pub(crate) mod kernel;
    pub(crate) mod page;
    pub(crate) mod rig;
    pub(crate) mod stand_in_gpu;
    pub(crate) mod tools;
}

mod packaging_rig;
mod pages_rig;
