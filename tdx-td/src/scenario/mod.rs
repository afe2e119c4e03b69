//! Scenarios: defaults for a kind of guest, layer over layer.

pub mod enums;
pub mod fit;
pub mod layers;
pub mod library;
pub mod profile;
pub mod resolve;
pub mod user_settings;
