//! The `<devices>` element of a definition.

use std::net::SocketAddr;

use common::Result;
use common::xml::Element;

use crate::domain_xml::builder::element::pci_hole;
use crate::domain_xml::builder::guest_definition::GuestDefinition;
use crate::scenario::enums::{HostFilesystem, InputBus, Tpm, Video, Watchdog};

impl GuestDefinition<'_> {
    pub(super) fn devices(&self) -> Result<Element> {
        let profile = self.profile();
        let mut devices = vec![self.disk()?, self.network_card(), random_source()];
        devices.extend(self.identity.seed.map(|seed| self.seed(seed)).transpose()?);
        devices.extend(self.identity.cdrom.map(|image| self.cdrom(image)).transpose()?);
        devices.extend(self.identity.ssh.filter(|_| self.settings.passt).map(passt));
        devices.extend(self.settings.vsock.then(vsock));
        devices.extend(self.identity.devices.hostdevs.iter().cloned());
        devices.extend(profile.host_filesystem.as_ref().map(host_filesystem));
        devices.extend(profile.watchdog.as_ref().map(watchdog));
        devices.extend(input("keyboard", profile.keyboard));
        devices.extend(input("mouse", profile.mouse));
        devices.push(controller("scsi").attr("model", "virtio-scsi"));
        devices.push(controller("virtio-serial"));
        devices.push(self.balloon());
        // Each of these devices occupies a port. libvirt adds ports for them, but no free ones.
        let taken = devices.len() as u32 - u32::from(self.settings.launch.is_secure());
        let ports = (0..taken + self.settings.hotplug_ports).map(|_| {
            Element::new("controller").attr("type", "pci").attr("model", "pcie-root-port")
        });
        let root = Element::new("controller")
            .attr("type", "pci")
            .attr("index", "0")
            .attr("model", "pcie-root")
            .child_opt(self.identity.devices.window.map(pci_hole));
        let emulator = profile.emulator.as_ref();
        Ok(Element::new("devices")
            .child_opt(emulator.map(|emulator| Element::new("emulator").text(emulator)))
            .child(root)
            .children(ports)
            .child(controller("usb").attr("model", self.usb()))
            .children(devices)
            .children(screen(profile.video))
            .child_opt(profile.tpm.as_ref().map(tpm))
            .child(Element::new("serial").attr("type", "pty"))
            .child(Element::new("console").attr("type", "pty"))
            .child(agent_channel()))
    }

    /// Returns the model of the USB controller; `none` without a USB device, because a guest could attack its code.
    fn usb(&self) -> &'static str {
        let profile = self.profile();
        if [profile.keyboard, profile.mouse].contains(&InputBus::Usb) {
            "qemu-xhci"
        } else {
            "none"
        }
    }

    fn network_card(&self) -> Element {
        let model = self.profile().network_model.as_str();
        Element::new("interface")
            .attr("type", "network")
            .child(Element::new("source").attr("network", &self.settings.network))
            .child(Element::new("model").attr("type", model))
    }

    /// Returns the memory balloon, which reclaims memory of a guest. Private memory cannot be reclaimed.
    fn balloon(&self) -> Element {
        let model = if self.settings.launch.is_secure() { "none" } else { "virtio" };
        Element::new("memballoon").attr("model", model)
    }
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

/// Returns a directory of the host that the guest can read. It is read-only, and owners are mapped.
fn host_filesystem(folder: &HostFilesystem) -> Element {
    Element::new("filesystem")
        .attr("type", "mount")
        .attr("accessmode", "mapped")
        .attr("fmode", &folder.fmode)
        .attr("dmode", &folder.dmode)
        .child(Element::new("source").attr("dir", &folder.source_dir))
        .child(Element::new("target").attr("dir", &folder.target_dir))
        .child(Element::new("readonly"))
}

fn watchdog(watchdog: &Watchdog) -> Element {
    Element::new("watchdog").attr("model", &watchdog.model).attr("action", &watchdog.action)
}

fn tpm(tpm: &Tpm) -> Element {
    let backend = Element::new("backend").attr("type", "emulator").attr("version", &tpm.version);
    Element::new("tpm").attr("model", &tpm.model).child(backend)
}

fn input(kind: &str, bus: InputBus) -> Option<Element> {
    match bus {
        InputBus::None => None,
        bus => Some(Element::new("input").attr("type", kind).attr("bus", bus.as_str())),
    }
}

/// Returns a graphics card, and a VNC server for it that listens on 127.0.0.1.
fn screen(video: Video) -> Vec<Element> {
    if video == Video::None {
        return Vec::new();
    }
    let server = Element::new("graphics").attr("type", "vnc").attr("autoport", "yes");
    let listen = Element::new("listen").attr("type", "address").attr("address", "127.0.0.1");
    let card = Element::new("video").child(Element::new("model").attr("type", video.as_str()));
    vec![server.child(listen), card]
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
