//! `tdx-pool`: tests that need only files, namespaces and a private libvirtd (rig 1).

#[allow(dead_code, reason = "a binary uses a part of it")]
#[path = "../support"]
mod support {
    pub(crate) mod pool;
    pub(crate) mod rig;
    pub(crate) mod steps;
    pub(crate) mod terminal;
    pub(crate) mod tools;
    pub(crate) mod wait;
}

mod cleanup;
mod closure;
mod delete;
mod import;
mod import_source;
mod pools;
mod upload;
