//! What a user asks of a new guest. Nothing here was held against the host.

use std::path::PathBuf;

use common::units::Size;

use crate::capability::{Security, VirtTypeArg};
use crate::create::base_image::ImageRequest;
use crate::create::cloud_init::AccessRequest;
use crate::create::disk_plan::DiskRequest;
use crate::create::ports::PortRequest;
use crate::passthrough::DeviceRequest;
use crate::scenario::resolve::RequestedSettings;
use crate::security::launch::LaunchOptions;

/// The guest that is asked for.
#[derive(Debug)]
pub struct GuestRequest {
    /// A file of domain XML with placeholders, instead of the built-in definition.
    pub template: Option<PathBuf>,
    /// Whether the template may be changed where libvirt would drop or open something.
    pub fix_template: bool,
    /// The domain's name; generated without it.
    pub name: Option<String>,
    /// Whether another domain of that name is deleted first.
    pub overwrite: bool,
    /// Launch security.
    pub security: Option<Security>,
    /// Memory.
    pub memory: Option<Size>,
    /// Virtual CPUs.
    pub vcpus: Option<u32>,
    /// Accelerator.
    pub virt_type: Option<VirtTypeArg>,
    /// Free PCI Express ports.
    pub hotplug_ports: u32,
    /// The port of this host that leads to the guest's SSH server.
    pub ssh_port: Option<PortRequest>,
    /// The scenario, and settings over it.
    pub settings: RequestedSettings,
    /// How the guest is launched.
    pub launch: LaunchOptions,
    /// Who may log in.
    pub access: AccessRequest,
    /// Its disk, when it is no overlay.
    pub disk: DiskRequest,
}

/// A guest, its image and its devices.
#[derive(Debug)]
pub struct CreationRequest {
    /// The guest.
    pub guest: GuestRequest,
    /// The image.
    pub image: ImageRequest,
    /// Devices of the host.
    pub devices: DeviceRequest,
}
