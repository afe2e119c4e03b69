//! Scenarios, which supply defaults for kinds of guests, and the settings that override them.

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
