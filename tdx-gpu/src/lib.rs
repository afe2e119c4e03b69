//! Give PCI devices to guests and take them back: bind to VFIO, confidential-computing mode, `<hostdev>`.
//!
//! ```sh
//! tdx-iommu scan --vendor 10de --class 03 | tdx-gpu bind - | tdx-td new -i guest.qcow2 --devices -
//! ```
//!
//! One module a verb. Under them: [`candidates`] are judged, [`plan`] says what binding takes, purely; [`binding`] does it, on all
//! devices at once, and undoes it; [`driver`] writes to sysfs and knows which VFIO driver a device wants;
//! [`limit`] is how much memory VFIO may map; [`mode`] reads a GPU's confidential-computing mode,
//! [`setting`] plans and sets it, and [`gpu_tools`] is NVIDIA's own program, which does. [`persist`]
//! remembers devices across boots, [`release`] says which devices go back, [`mod@unit`] is what runs then, and [`boot`] what it does.

mod cli;

pub mod bars;
pub mod bind;
pub mod binding;
pub mod boot;
pub mod candidates;
pub mod cc;
pub mod check;
pub mod driver;
pub mod driverctl;
pub mod gpu_tools;
pub mod handover;
pub mod held;
pub mod hostdev;
pub mod limit;
pub mod list;
pub mod mode;
pub mod persist;
pub mod plan;
pub mod release;
pub mod setting;
pub mod unbind;
pub mod unit;

pub use cli::Cli;
