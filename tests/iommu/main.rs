//! `tdx-iommu`: tests that need only files, namespaces and a private libvirtd (rig 1).

#[allow(dead_code, reason = "a binary uses a part of it")]
#[path = "../support"]
mod support {
    pub(crate) mod hosts;
    pub(crate) mod tools;
    pub(crate) mod tree;
}

mod inventory;
mod resolve;
