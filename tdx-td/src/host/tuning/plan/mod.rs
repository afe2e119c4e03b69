//! Planning the changes that set a host to the values of a scenario. Pure.

mod draft;
mod merging;
mod modules;
mod schedulers;
mod settings;
#[cfg(test)]
mod tests;

pub use draft::{DesiredValue, Options, SettingsPlan};
pub use settings::plan_settings;
