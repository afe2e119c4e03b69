//! The documentation: every command, example, schema and manual page that it names.

#[allow(dead_code, reason = "a binary uses a part of it")]
#[path = "../support"]
mod support {
    pub(crate) mod hosts;
    pub(crate) mod page;
    pub(crate) mod quote_samples;
    pub(crate) mod rig;
    pub(crate) mod td;
    pub(crate) mod tdvf;
    pub(crate) mod template;
    pub(crate) mod tools;
    pub(crate) mod tree;
    pub(crate) mod vectors;
    pub(crate) mod wait;
}

mod ansible;
mod drop_in;
mod links;
mod manual;
mod no_orphans;
mod pages;
mod pipelines;
mod reference;
mod schema;
mod source_tree;
