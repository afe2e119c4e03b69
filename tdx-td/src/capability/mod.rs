//! The capabilities of the host: accelerator, launch security, memory, processors.

mod host_capacity;
mod kvm;
mod libvirt;
mod protection;
mod security;
mod virt_type;

pub use host_capacity::{Capacity, capacity};
pub use kvm::{check_kvm, virt_type};
pub use libvirt::{
    check_vcpus, check_vsock, device_values, has_iommufd, has_passt, machines, offers_tdx,
};
pub(crate) use libvirt::{domain_capabilities, sectypes, version_text};
pub use protection::check_security;
pub use security::Security;
pub use virt_type::{VirtType, VirtTypeArg};
