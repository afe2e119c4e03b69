//! `tdx-td`: tests that need only files, namespaces and a private libvirtd (rig 1).

#[allow(dead_code, reason = "a binary uses a part of it")]
#[path = "../support"]
mod support {
    pub(crate) mod disk;
    pub(crate) mod firmware;
    pub(crate) mod headers;
    pub(crate) mod kvm_hosts;
    pub(crate) mod odd_firmware;
    pub(crate) mod plain_guest;
    pub(crate) mod pool;
    pub(crate) mod quote;
    pub(crate) mod rig;
    pub(crate) mod steps;
    pub(crate) mod table;
    pub(crate) mod td;
    pub(crate) mod template;
    pub(crate) mod terminal;
    pub(crate) mod tools;
    pub(crate) mod tree;
    pub(crate) mod tuned;
    pub(crate) mod wait;
}

mod addresses;
mod base_format;
mod delete;
mod evidence;
mod firmware;
mod host_check;
mod host_tune;
mod hostdevs;
mod image_format;
mod interrupt;
mod lifecycle;
mod list;
mod new;
mod refuse;
mod scenario;
mod scenario_table;
mod stop;
mod template;
mod template_check;
