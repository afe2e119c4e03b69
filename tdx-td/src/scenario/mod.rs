//! Scenarios: defaults for a kind of guest, layer over layer.

pub mod assignments;
pub mod conflicts;
pub mod disk_kind;
pub mod enums;
pub mod layers;
pub mod library;
pub mod profile;
pub mod protection;
pub mod resolve;
pub mod user_settings;
pub mod value;
