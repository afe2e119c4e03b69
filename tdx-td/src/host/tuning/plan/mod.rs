//! What has to be done for a host to be as a scenario wants it. Pure.

mod draft;
mod merging;
mod modules;
mod schedulers;
mod settings;
#[cfg(test)]
mod tests;

pub use draft::{DesiredValue, Options, SettingsPlan};
pub use settings::plan_settings;
