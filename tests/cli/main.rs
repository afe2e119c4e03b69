//! Command-line behaviour that all tools have in common.

#[allow(dead_code, reason = "a binary uses a part of it")]
#[path = "../support"]
mod support {
    pub(crate) mod hosts;
    pub(crate) mod kvm_hosts;
    pub(crate) mod rig;
    pub(crate) mod td;
    pub(crate) mod terminal;
    pub(crate) mod tools;
    pub(crate) mod tree;
    pub(crate) mod wait;
}

mod completions;
mod hosts;
mod identity;
mod limits;
mod metrics;
mod signals;
mod terminals;
