//! Domain XML for a new guest.
//!
//! A definition is a list of parts, each a function from what is wanted to elements. Launch security
//! is one more part: it adds its element and overrules the few others it must.
//! Source: <https://libvirt.org/formatdomain.html>.

use std::net::SocketAddr;
use std::path::Path;

use common::xml::Element;
use common::{Error, Result};
use tdx_pool::overlay::Base;

use crate::capability::VirtType;
use crate::identity::Identity;
use crate::launch::Launch;
use crate::settings::Settings;

/// Everything that goes into a new domain.
#[derive(Debug, Clone, Copy)]
pub struct Guest<'a> {
    /// What it is to have.
    pub settings: &'a Settings,
    /// What makes it this one.
    pub identity: &'a Identity<'a>,
}

/// The namespace of raw arguments for QEMU.
const QEMU: &str = "http://libvirt.org/schemas/domain/qemu/1.0";

impl Guest<'_> {
    /// The definition, as libvirt takes it.
    ///
    /// Errors: `invalid_input` for values that XML cannot hold.
    pub fn to_xml(&self) -> Result<String> {
        let raw = self.identity.ssh.filter(|_| !self.settings.passt);
        Element::new("domain")
            .attr("type", self.settings.virt_type.as_str())
            .attr_opt("xmlns:qemu", raw.map(|_| QEMU))
            .child(Element::new("name").text(self.identity.name))
            .child(Element::new("uuid").text(self.identity.uuid))
            .child(Element::new("metadata").child(self.identity.metadata.to_element()))
            .child(
                Element::new("memory").attr("unit", "KiB").text(self.settings.memory_bytes / 1024),
            )
            .child(Element::new("vcpu").attr("placement", "static").text(self.settings.vcpus))
            .child(self.os())
            .child(self.features())
            .child(self.cpu())
            .child(clock())
            .child(Element::new("on_poweroff").text("destroy"))
            .child(Element::new("on_reboot").text("restart"))
            .child(Element::new("on_crash").text("destroy"))
            .child(self.devices()?)
            .child_opt(self.settings.launch.to_element())
            .child_opt(raw.map(slirp))
            .to_xml()
    }

    /// UEFI, found by libvirt from QEMU's firmware descriptors.
    fn os(&self) -> Element {
        let os = Element::new("os")
            .attr("firmware", "efi")
            .child(Element::new("type").attr("arch", "x86_64").attr("machine", "q35").text("hvm"));
        let feature = |name: &str| Element::new("feature").attr("enabled", "no").attr("name", name);
        let os = match self.settings.launch {
            // The firmware with enrolled keys boots only signed images, the one without boots all.
            // Variables of its own keep libvirt from the stateless builds, which are for AMD SEV.
            Launch::None => os
                .child(
                    Element::new("firmware")
                        .child(feature("enrolled-keys"))
                        .child(feature("secure-boot")),
                )
                .child(Element::new("loader").attr("stateless", "no")),
            // libvirt looks for firmware that can be launched so. Debian's only one for TDX has keys
            // enrolled: asking for none finds nothing.
            Launch::Tdx(_) | Launch::Sev(_) => os,
        };
        os.child(Element::new("boot").attr("dev", "hd"))
    }

    fn features(&self) -> Element {
        let features =
            Element::new("features").child(Element::new("acpi")).child(Element::new("apic"));
        match self.settings.launch {
            Launch::None | Launch::Sev(_) => features,
            // The interrupt controller must be QEMU's, not the kernel's: the host may not inject
            // interrupts into a trust domain by itself.
            Launch::Tdx(_) => features.child(Element::new("ioapic").attr("driver", "qemu")),
        }
    }

    fn cpu(&self) -> Element {
        let mode = match self.settings.virt_type {
            VirtType::Kvm => "host-passthrough",
            VirtType::Qemu => "maximum",
        };
        let topology = Element::new("topology")
            .attr("sockets", 1)
            .attr("cores", self.settings.vcpus)
            .attr("threads", 1);
        Element::new("cpu").attr("mode", mode).child(topology)
    }

    fn devices(&self) -> Result<Element> {
        let mut devices = vec![self.disk()?, self.network_card(), random_source()];
        devices.extend(self.identity.seed.map(seed_disk).transpose()?);
        devices.extend(self.identity.ssh.filter(|_| self.settings.passt).map(passt));
        devices.extend(self.settings.vsock.then(vsock));
        devices.extend(self.identity.devices.hostdevs.iter().cloned());
        devices.push(controller("scsi").attr("model", "virtio-scsi"));
        devices.push(controller("virtio-serial"));
        devices.push(self.balloon());
        // Each of these takes a port of its own; libvirt adds ports for them, but none to spare.
        let taken = devices.len() as u32 - u32::from(self.settings.launch.is_secure());
        let ports = (0..taken + self.settings.hotplug_ports).map(|_| {
            Element::new("controller").attr("type", "pci").attr("model", "pcie-root-port")
        });
        let root = Element::new("controller")
            .attr("type", "pci")
            .attr("index", "0")
            .attr("model", "pcie-root")
            .child_opt(self.identity.devices.window.map(pci_hole));
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
        let backing = backing_store(self.identity.base, self.identity.keep_base_owner)?;
        let driver = Element::new("driver")
            .attr("name", "qemu")
            .attr("type", "qcow2")
            .attr("discard", "unmap");
        Ok(Element::new("disk")
            .attr("type", "file")
            .attr("device", "disk")
            .child(driver)
            .child(Element::new("source").attr("file", utf8(&self.identity.metadata.overlay)?))
            .child(backing)
            .child(Element::new("target").attr("dev", "vda").attr("bus", "virtio")))
    }

    fn network_card(&self) -> Element {
        Element::new("interface")
            .attr("type", "network")
            .child(Element::new("source").attr("network", &self.settings.network))
            .child(Element::new("model").attr("type", "virtio"))
    }

    /// A balloon takes memory back from a guest; private memory cannot be taken.
    fn balloon(&self) -> Element {
        let model = if self.settings.launch.is_secure() { "none" } else { "virtio" };
        Element::new("memballoon").attr("model", model)
    }
}

/// What an overlay stands on, as its disk tells it.
pub(crate) fn backing_store(base: &Base, keep_owner: bool) -> Result<Element> {
    let mut source = Element::new("source").attr("file", utf8(&base.path)?);
    if keep_owner {
        // Without it libvirt gives the base image to the QEMU user while a guest runs.
        let seclabel = Element::new("seclabel").attr("model", "dac").attr("relabel", "no");
        source = source.child(seclabel);
    }
    Ok(Element::new("backingStore")
        .attr("type", "file")
        .child(Element::new("format").attr("type", base.format.as_str()))
        .child(source)
        .child(Element::new("backingStore")))
}

/// How much 64-bit address space the guest's devices get, from bytes.
///
/// Source: <https://libvirt.org/formatdomain.html#controllers>, `pcihole64`.
pub(crate) fn pci_hole(bytes: u64) -> Element {
    Element::new("pcihole64").attr("unit", "KiB").text(bytes / 1024)
}

/// Source: <https://libvirt.org/formatdomain.html#userspace-connection-using-passt>.
fn passt(socket: SocketAddr) -> Element {
    let range = Element::new("range").attr("start", socket.port()).attr("to", 22);
    let forward =
        Element::new("portForward").attr("proto", "tcp").attr("address", socket.ip()).child(range);
    Element::new("interface")
        .attr("type", "user")
        .child(Element::new("backend").attr("type", "passt"))
        .child(forward)
        .child(Element::new("model").attr("type", "virtio"))
}

/// Source: qemu(1), `-netdev user`. The card needs no boot ROM of its own, but an address: QEMU makes
/// it before those of libvirt's devices are taken, of which none is this far up.
fn slirp(socket: SocketAddr) -> Element {
    let network = format!("user,id=tdx-ssh,hostfwd=tcp:{socket}-:22");
    let card = "virtio-net-pci,netdev=tdx-ssh,romfile=,bus=pcie.0,addr=0x18";
    let arguments = ["-netdev", &network, "-device", card];
    let argument = |value: &str| Element::new("qemu:arg").attr("value", value);
    Element::new("qemu:commandline").children(arguments.map(argument))
}

/// The seed as a disk of its own, which cloud-init finds by its label.
fn seed_disk(seed: &Path) -> Result<Element> {
    let driver = Element::new("driver").attr("name", "qemu").attr("type", "raw");
    Ok(Element::new("disk")
        .attr("type", "file")
        .attr("device", "disk")
        .child(driver)
        .child(Element::new("source").attr("file", utf8(seed)?))
        .child(Element::new("target").attr("dev", "vdb").attr("bus", "virtio"))
        .child(Element::new("readonly")))
}

/// A path as XML can hold it.
pub(crate) fn utf8(path: &Path) -> Result<&str> {
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
