//! `tdx-gpu`: tests that need only files, namespaces and a private libvirtd (rig 1).

#[allow(dead_code, reason = "a binary uses a part of it")]
#[path = "../support"]
mod support {
    pub(crate) mod file_race;
    pub(crate) mod hosts;
    pub(crate) mod rig;
    pub(crate) mod server;
    pub(crate) mod steps;
    pub(crate) mod table;
    pub(crate) mod terminal;
    pub(crate) mod tools;
    pub(crate) mod tree;
    pub(crate) mod tuned;
    pub(crate) mod wait;
}

mod cc;
mod unbind;
