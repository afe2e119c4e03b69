//! `tdx-attest`: what files are enough for.

#[allow(dead_code, reason = "a binary uses a part of it")]
#[path = "../support"]
mod support {
    pub(crate) mod mrtd;
    pub(crate) mod tdvf;
    pub(crate) mod tools;
}

mod measure;
