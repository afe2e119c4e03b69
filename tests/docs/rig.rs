//! The packages, in bare Debians: `make test-rigs` runs these.

#[allow(dead_code, reason = "a binary uses a part of it")]
#[path = "../support"]
mod support {
    pub(crate) mod tools;
}

mod packaging_rig;
