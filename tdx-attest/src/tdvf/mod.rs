//! TDVF images: the firmware of trust domains, and the measurement of that firmware.

mod guid;
mod image;
mod metadata;
mod mrtd;
#[cfg(test)]
#[path = "../../../tests/support/tdvf.rs"]
pub(crate) mod synthetic;
mod table;
#[cfg(test)]
mod tests;
mod variables;

pub use guid::Guid;
pub use image::Tdvf;
pub use metadata::{Section, SectionKind};
pub use mrtd::PageOrder;
pub use variables::VariableStore;
