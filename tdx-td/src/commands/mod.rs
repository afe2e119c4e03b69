//! The verbs, one module for each: arguments, document and implementation.

pub mod args;
pub mod console;
pub mod delete;
pub mod evidence;
pub mod firmware;
pub mod host;
pub mod hostdevs;
pub mod list;
pub mod new;
pub mod overlay;
pub mod render;
pub mod scenario;
pub mod show;
pub mod ssh;
pub mod start;
pub mod stop;
pub mod virsh;
