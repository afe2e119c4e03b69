//! Scenarios: what a guest is to be used for, and what its definition, its disk and the host are to be like for that.

pub mod layers;
pub mod library;
pub mod profile;
pub mod words;
