//! Domain XML for a new guest.
//!
//! A definition is a list of parts, each a function from what is wanted to elements. Launch security
//! is one more part: it adds its element and overrules the few others it must.
//! Source: <https://libvirt.org/formatdomain.html>.

use std::path::{Path, PathBuf};

use common::xml::Element;
use common::{Error, Result};
use tdx_pool::image::Format;

use crate::capability::VirtType;
use crate::metadata::Metadata;
use crate::tdx::Tdx;

/// Everything that goes into a new domain.
#[derive(Debug, Clone)]
pub struct Guest {
    /// Name.
    pub name: String,
    /// UUID.
    pub uuid: String,
    /// Accelerator.
    pub virt_type: VirtType,
    /// Launch security.
    pub launch: Launch,
    /// Memory, bytes.
    pub memory_bytes: u64,
    /// Virtual CPUs.
    pub vcpus: u32,
    /// The base image's format.
    pub base_format: Format,
    /// Whether libvirt may be told to leave the base image's owner alone.
    pub keep_base_owner: bool,
    /// libvirt network.
    pub network: String,
    /// Whether the host can give it a vsock.
    pub vsock: bool,
    /// Free PCI Express ports for devices plugged in later.
    pub hotplug_ports: u32,
    /// A cloud-init seed.
    pub seed: Option<PathBuf>,
    /// Our record; it names base and overlay.
    pub metadata: Metadata,
}

/// How the guest is protected from its host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Launch {
    /// Not at all: an ordinary guest.
    None,
    /// As a trust domain.
    Tdx(Tdx),
}

impl Guest {
    /// The definition, as libvirt takes it.
    ///
    /// Errors: `invalid_input` for values that XML cannot hold.
    pub fn to_xml(&self) -> Result<String> {
        let kib = self.memory_bytes / 1024;
        Element::new("domain")
            .attr("type", self.virt_type.as_str())
            .child(Element::new("name").text(&self.name))
            .child(Element::new("uuid").text(&self.uuid))
            .child(Element::new("metadata").child(self.metadata.to_element()))
            .child(Element::new("memory").attr("unit", "KiB").text(kib.to_string()))
            .child(Element::new("vcpu").attr("placement", "static").text(self.vcpus.to_string()))
            .child(self.os())
            .child(self.features())
            .child(self.cpu())
            .child(clock())
            .child(Element::new("on_poweroff").text("destroy"))
            .child(Element::new("on_reboot").text("restart"))
            .child(Element::new("on_crash").text("destroy"))
            .child(self.devices()?)
            .children(self.launch_security())
            .to_xml()
    }

    /// UEFI, found by libvirt from QEMU's firmware descriptors.
    fn os(&self) -> Element {
        let os = Element::new("os")
            .attr("firmware", "efi")
            .child(Element::new("type").attr("arch", "x86_64").attr("machine", "q35").text("hvm"));
        let feature = |name: &str| Element::new("feature").attr("enabled", "no").attr("name", name);
        let os = match self.launch {
            // The firmware with enrolled keys boots only signed images, the one without boots all.
            // Variables of its own keep libvirt from the stateless builds, which are for AMD SEV.
            Launch::None => os
                .child(
                    Element::new("firmware")
                        .child(feature("enrolled-keys"))
                        .child(feature("secure-boot")),
                )
                .child(Element::new("loader").attr("stateless", "no")),
            // Debian's only TDX firmware has keys enrolled: asking for none finds nothing.
            Launch::Tdx(_) => os,
        };
        os.child(Element::new("boot").attr("dev", "hd"))
    }

    fn features(&self) -> Element {
        let features =
            Element::new("features").child(Element::new("acpi")).child(Element::new("apic"));
        match self.launch {
            Launch::None => features,
            // The interrupt controller must be QEMU's, not the kernel's: the host may not inject
            // interrupts into a trust domain by itself.
            Launch::Tdx(_) => features.child(Element::new("ioapic").attr("driver", "qemu")),
        }
    }

    fn cpu(&self) -> Element {
        let mode = match self.virt_type {
            VirtType::Kvm => "host-passthrough",
            VirtType::Qemu => "maximum",
        };
        let topology = Element::new("topology")
            .attr("sockets", "1")
            .attr("cores", self.vcpus.to_string())
            .attr("threads", "1");
        Element::new("cpu").attr("mode", mode).child(topology)
    }

    fn devices(&self) -> Result<Element> {
        let mut devices = vec![self.disk()?, self.network_card(), random_source()];
        devices.extend(self.seed.as_deref().map(seed_disk).transpose()?);
        devices.extend(self.vsock.then(vsock));
        devices.push(controller("scsi").attr("model", "virtio-scsi"));
        devices.push(controller("virtio-serial"));
        devices.push(self.balloon());
        // Each of these takes a port of its own; libvirt adds ports for them, but none to spare.
        let taken = devices.len() as u32 - u32::from(self.launch != Launch::None);
        let ports = (0..taken + self.hotplug_ports).map(|_| {
            Element::new("controller").attr("type", "pci").attr("model", "pcie-root-port")
        });
        let root = Element::new("controller")
            .attr("type", "pci")
            .attr("index", "0")
            .attr("model", "pcie-root");
        Ok(Element::new("devices")
            .child(root)
            .children(ports)
            .child(controller("usb").attr("model", "none"))
            .children(devices)
            .child(Element::new("serial").attr("type", "pty"))
            .child(Element::new("console").attr("type", "pty"))
            .child(agent_channel()))
    }

    fn disk(&self) -> Result<Element> {
        let base = path(&self.metadata.base)?;
        let mut base = Element::new("source").attr("file", base);
        if self.keep_base_owner {
            // Without it libvirt gives the base image to the QEMU user while a guest runs.
            base = base.child(Element::new("seclabel").attr("model", "dac").attr("relabel", "no"));
        }
        let backing = Element::new("backingStore")
            .attr("type", "file")
            .child(Element::new("format").attr("type", self.base_format.as_str()))
            .child(base)
            .child(Element::new("backingStore"));
        let driver = Element::new("driver")
            .attr("name", "qemu")
            .attr("type", "qcow2")
            .attr("discard", "unmap");
        Ok(Element::new("disk")
            .attr("type", "file")
            .attr("device", "disk")
            .child(driver)
            .child(Element::new("source").attr("file", path(&self.metadata.overlay)?))
            .child(backing)
            .child(Element::new("target").attr("dev", "vda").attr("bus", "virtio")))
    }

    fn network_card(&self) -> Element {
        Element::new("interface")
            .attr("type", "network")
            .child(Element::new("source").attr("network", &self.network))
            .child(Element::new("model").attr("type", "virtio"))
    }

    /// A balloon takes memory back from a guest; a trust domain's private memory cannot be taken.
    fn balloon(&self) -> Element {
        let model = match self.launch {
            Launch::None => "virtio",
            Launch::Tdx(_) => "none",
        };
        Element::new("memballoon").attr("model", model)
    }

    fn launch_security(&self) -> Option<Element> {
        match &self.launch {
            Launch::None => None,
            Launch::Tdx(tdx) => Some(tdx.to_element()),
        }
    }
}

/// The seed as a disk of its own, which cloud-init finds by its label.
fn seed_disk(seed: &Path) -> Result<Element> {
    let driver = Element::new("driver").attr("name", "qemu").attr("type", "raw");
    Ok(Element::new("disk")
        .attr("type", "file")
        .attr("device", "disk")
        .child(driver)
        .child(Element::new("source").attr("file", path(seed)?))
        .child(Element::new("target").attr("dev", "vdb").attr("bus", "virtio"))
        .child(Element::new("readonly")))
}

fn path(path: &Path) -> Result<&str> {
    path.to_str()
        .ok_or_else(|| Error::invalid_input(format!("path {} is not UTF-8", path.display())))
}

fn clock() -> Element {
    Element::new("clock")
        .attr("offset", "utc")
        .child(Element::new("timer").attr("name", "hpet").attr("present", "no"))
}

fn controller(kind: &str) -> Element {
    Element::new("controller").attr("type", kind).attr("index", "0")
}

fn random_source() -> Element {
    Element::new("rng")
        .attr("model", "virtio")
        .child(Element::new("backend").attr("model", "random").text("/dev/urandom"))
}

fn vsock() -> Element {
    Element::new("vsock").attr("model", "virtio").child(Element::new("cid").attr("auto", "yes"))
}

fn agent_channel() -> Element {
    Element::new("channel")
        .attr("type", "unix")
        .child(Element::new("target").attr("type", "virtio").attr("name", "org.qemu.guest_agent.0"))
}
