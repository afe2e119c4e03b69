//! `tdx-attest`: what files are enough for.

#[allow(dead_code, reason = "a binary uses a part of it")]
#[path = "../support"]
mod support {
    pub(crate) mod event_log;
    pub(crate) mod mrtd;
    pub(crate) mod quote;
    pub(crate) mod quote_samples;
    pub(crate) mod tdvf;
    pub(crate) mod tools;
    pub(crate) mod vectors;
}

mod collateral;
mod measure;
mod replay;
mod verify;
