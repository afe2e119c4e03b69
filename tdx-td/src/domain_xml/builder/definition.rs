//! The elements of a definition other than devices.

use std::net::SocketAddr;

use common::Result;
use common::units::Size;
use common::xml::Element;

use crate::capability::VirtType;
use crate::domain_xml::builder::element::kib;
use crate::domain_xml::builder::guest_definition::GuestDefinition;
use crate::firmware::query::FirmwareQuery;
use crate::scenario::enums::{Boot, MemoryBacking, Ticks};
use crate::scenario::profile::{AutoOr, Guest as Profile, OnOff};
use crate::security::launch::Launch;

/// The namespace of raw arguments for QEMU.
const QEMU: &str = "http://libvirt.org/schemas/domain/qemu/1.0";

impl GuestDefinition<'_> {
    /// Returns the definition as XML.
    ///
    /// Errors: `invalid_input` for values that XML cannot contain.
    pub fn to_xml(&self) -> Result<String> {
        let raw = self.identity.ssh.filter(|_| !self.settings.passt);
        let profile = self.profile();
        let text = |name: &str, text: &dyn std::fmt::Display| Element::new(name).text(text);
        let threads = (profile.iothreads > 0).then_some(profile.iothreads);
        Element::new("domain")
            .attr("type", self.settings.virt_type.as_str())
            .attr_opt("xmlns:qemu", raw.map(|_| QEMU))
            .child(text("name", &self.identity.name))
            .child(text("uuid", &self.identity.uuid))
            .child(Element::new("metadata").child(self.identity.metadata.to_element()))
            .child(kib("memory", self.settings.memory_bytes))
            .child_opt(self.memory_limit())
            .child_opt(memory_backing(profile.memory_backing))
            .child(Element::new("vcpu").attr("placement", "static").text(self.settings.vcpus))
            .child_opt(threads.map(|threads| text("iothreads", &threads)))
            .child(self.os())
            .child(self.features())
            .child(self.cpu())
            .child(clock(profile))
            .child(text("on_poweroff", &profile.on_poweroff.as_str()))
            .child(text("on_reboot", &profile.on_reboot.as_str()))
            .child(text("on_crash", &profile.on_crash.as_str()))
            .child_opt(sleep(profile))
            .child(self.devices()?)
            .child_opt(self.settings.launch.to_element())
            .child_opt(raw.map(slirp))
            .to_xml()
    }

    /// Returns the memory limit of QEMU. The pinned memory of SEV guests counts against it.
    ///
    /// Source: <https://libvirt.org/kbase/launch_security_sev.html>, "Memory".
    fn memory_limit(&self) -> Option<Element> {
        let Size(headroom) = self.profile().memory_headroom?;
        let limit = kib("hard_limit", self.settings.memory_bytes.saturating_add(headroom));
        Some(Element::new("memtune").child(limit))
    }

    /// Returns the `<os>` element with UEFI, which libvirt finds by QEMU's firmware descriptors.
    fn os(&self) -> Element {
        let profile = self.profile();
        let os = Element::new("os").attr("firmware", "efi").child(
            Element::new("type")
                .attr("arch", "x86_64")
                .attr("machine", &profile.machine)
                .text("hvm"),
        );
        let wanted = FirmwareQuery::for_guest(profile, self.settings.launch.security());
        let asked = |name: &str| wanted.features.iter().find(|feature| feature.name == name);
        let asked = ["enrolled-keys", "secure-boot"].into_iter().filter_map(asked);
        let features = asked.map(|feature| {
            let enabled = OnOff(feature.present).yes_no();
            Element::new("feature").attr("enabled", enabled).attr("name", &feature.name)
        });
        let features: Vec<Element> = features.collect();
        let firmware = (!features.is_empty()).then(|| Element::new("firmware").children(features));
        let loader = wanted
            .stateless
            .map(|stateless| Element::new("loader").attr("stateless", OnOff(stateless).yes_no()));
        let os = os.child_opt(firmware).child_opt(loader);
        // After an installation from another device, the guest boots from the disk.
        let disk = (profile.boot != Boot::Disk).then_some(Boot::Disk);
        let boot = [profile.boot].into_iter().chain(disk);
        os.children(boot.map(|device| Element::new("boot").attr("dev", device.as_str())))
    }

    fn features(&self) -> Element {
        let profile = self.profile();
        let features = profile.features.iter().map(|feature| Element::new(feature.as_str()));
        let features = Element::new("features").children(features);
        let features = match self.settings.launch {
            Launch::None | Launch::Sev(_) => features,
            // The interrupt controller must be QEMU's, not the kernel's: the kernel may not inject
            // interrupts into a trust domain.
            Launch::Tdx(_) => features.child(Element::new("ioapic").attr("driver", "qemu")),
        };
        match profile.smm {
            AutoOr::Auto => features,
            AutoOr::Is(on) => features.child(Element::new("smm").attr("state", on.on_off())),
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
        Element::new("cpu")
            .attr("mode", mode)
            .attr_opt("migratable", self.profile().cpu_migratable.map(OnOff::on_off))
            .child(topology)
    }
}

fn memory_backing(backing: MemoryBacking) -> Option<Element> {
    match backing {
        MemoryBacking::Private => None,
        MemoryBacking::Shared => Some(
            Element::new("memoryBacking")
                .child(Element::new("source").attr("type", "memfd"))
                .child(Element::new("access").attr("mode", "shared")),
        ),
    }
}

fn clock(profile: &Profile) -> Element {
    let timer = |name: &str| Element::new("timer").attr("name", name);
    let ticks = [("rtc", profile.rtc_ticks), ("pit", profile.pit_ticks)];
    let ticks = ticks.into_iter().filter(|(_, ticks)| *ticks != Ticks::Default);
    Element::new("clock")
        .attr("offset", "utc")
        .children(ticks.map(|(name, ticks)| timer(name).attr("tickpolicy", ticks.as_str())))
        .child(timer("hpet").attr("present", "no"))
}

/// Returns the `<pm>` element: whether the guest is offered suspend to memory and to disk.
fn sleep(profile: &Profile) -> Option<Element> {
    let states =
        [("suspend-to-mem", profile.suspend_to_mem), ("suspend-to-disk", profile.suspend_to_disk)];
    let mut states = states
        .into_iter()
        .filter_map(|(name, on)| Some(Element::new(name).attr("enabled", on?.yes_no())))
        .peekable();
    states.peek()?;
    Some(Element::new("pm").children(states))
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
