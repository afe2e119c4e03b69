//! The user's request for a new guest, not yet checked against the host.

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

/// The requested guest.
#[derive(Debug)]
pub struct GuestRequest {
    /// File of domain XML with placeholders, used instead of the built-in definition.
    pub template: Option<PathBuf>,
    /// Whether parts of the template that libvirt does not know are translated or removed.
    pub fix_template: bool,
    /// Name of the domain; `None` for a generated one.
    pub name: Option<String>,
    /// Whether an existing domain of that name that differs is deleted first.
    pub overwrite: bool,
    /// Launch security.
    pub security: Option<Security>,
    /// Memory.
    pub memory: Option<Size>,
    /// Virtual CPUs.
    pub vcpus: Option<u32>,
    /// Accelerator.
    pub virt_type: Option<VirtTypeArg>,
    /// Number of free PCI Express ports.
    pub hotplug_ports: u32,
    /// The port of this host that is forwarded to the guest's SSH server.
    pub ssh_port: Option<PortRequest>,
    /// The scenario, and the settings that override it.
    pub settings: RequestedSettings,
    /// The options of launch security.
    pub launch: LaunchOptions,
    /// User, keys, password and host name.
    pub access: AccessRequest,
    /// The disk, if it is not an overlay.
    pub disk: DiskRequest,
}

/// The requested guest, its image and its host devices.
#[derive(Debug)]
pub struct CreationRequest {
    /// The guest.
    pub guest: GuestRequest,
    /// The image.
    pub image: ImageRequest,
    /// The host devices.
    pub devices: DeviceRequest,
}
