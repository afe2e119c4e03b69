//! `tdx-td`: tests that need a machine of their own (rigs 2 and 3). `make test-rigs` runs them.

#[allow(dead_code, reason = "a binary uses a part of it")]
#[path = "../support"]
mod support {
    pub(crate) mod firmware;
    pub(crate) mod kernel;
    pub(crate) mod mrtd;
    pub(crate) mod odd_firmware;
    pub(crate) mod plain_guest;
    pub(crate) mod quote;
    pub(crate) mod quote_samples;
    pub(crate) mod rig;
    pub(crate) mod stand_in_gpu;
    pub(crate) mod steps;
    pub(crate) mod td;
    pub(crate) mod template;
    pub(crate) mod tools;
    pub(crate) mod tree;
    pub(crate) mod vectors;
    pub(crate) mod wait;
}

mod access_rig;
mod apparmor_rig;
mod attestation_rig;
mod evidence_rig;
mod passthrough_rig;
mod tdx_rig;
mod tune_rig;
