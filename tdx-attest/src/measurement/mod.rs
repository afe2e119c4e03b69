//! The predicted values of a trust domain's registers.

mod item;
mod predict;

pub use item::{MeasurementItem, ValueByPageOrder};
pub use predict::predict;
