//! `tdx-disk`: tests that need only files, namespaces and a private libvirtd (rig 1).

#[allow(dead_code, reason = "a binary uses a part of it")]
#[path = "../support"]
mod support {
    pub(crate) mod disk;
    pub(crate) mod rig;
    pub(crate) mod steps;
    pub(crate) mod td;
    pub(crate) mod terminal;
    pub(crate) mod tools;
    pub(crate) mod tree;
    pub(crate) mod wait;
}

mod attach;
mod host_storage;
mod list;
mod undefined;
