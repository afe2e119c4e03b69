//! `tdx-disk` on machines of their own: `make test-rigs` runs these.

#[allow(dead_code, reason = "a binary uses a part of it")]
#[path = "../support"]
mod support {
    pub(crate) mod kernel;
    pub(crate) mod tools;
}

mod check_rig;
