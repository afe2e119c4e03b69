//! The commands of the documentation that need devices of the host, or a libvirt that supports trust domains.

use crate::support::kernel::Kernel;
use crate::support::page::{self, Page};
use crate::support::rig::{Rig, guest_image};
use crate::support::stand_in_gpu;
use crate::support::tools::repository;

/// The pages that show commands for a place.
fn pages_at(place: &str) -> impl Iterator<Item = (String, Page)> {
    let pages = page::all().into_iter().map(|name| (name.clone(), Page::read(&name)));
    pages.filter(move |(_, page)| page.has_commands_at(&[place]))
}

#[test]
#[ignore = "needs root"]
fn pages_show_what_their_commands_for_devices_print() {
    let kernel = Kernel::start_with_libvirt();
    let nics = kernel.shell("tdx-iommu scan --driver e1000e --format name");
    let [switch, gpu] = nics.text().lines().collect::<Vec<_>>()[..] else { panic!("{nics:?}") };
    stand_in_gpu::install(&kernel, gpu, switch);
    let (image, root) = (guest_image(false), repository());
    let copy =
        format!("cp '{}' guest.qcow2 && ln -s '{}/examples' .", image.display(), root.display());
    kernel.shell(&copy).text();
    // The rig uses the root file system of this machine, which can be a container.
    kernel.shell("rm -f /.dockerenv /run/.containerenv").text();
    kernel.shell("tdx-pool ensure").document();
    let state = "virsh list --all --name; ls /var/lib/libvirt/images; \
        grep . /sys/bus/pci/devices/*/driver_override; find /run/tdx /etc/tdx -type f; true";
    let before = kernel.shell(state).stdout;
    let settings =
        format!("export TDX_VIRT_TYPE=qemu TDX_MEMORY=64M TDX_VCPUS=1 TDX_SECURITY=none GPU={gpu}");
    for (name, page) in pages_at("devices") {
        page.run(&[("devices", &settings, &|line| kernel.shell(line))]);
        assert_eq!(kernel.shell(state).stdout, before, "{name} leaves something");
    }
}

#[test]
#[ignore = "needs root"]
fn pages_show_what_their_commands_for_tdx_print() {
    let rig = Rig::start_tdx();
    std::fs::copy(guest_image(false), rig.scratch().join("guest.qcow2")).unwrap();
    std::os::unix::fs::symlink(repository().join("examples"), rig.scratch().join("examples"))
        .unwrap();
    rig.tool("tdx-pool", ["ensure"]).document();
    let before = rig.state();
    for (name, page) in pages_at("tdx") {
        page.run(&[("tdx", "export TDX_MEMORY=512M TDX_VCPUS=1", &|line| rig.shell(line))]);
        assert_eq!(rig.state(), before, "{name} leaves something");
    }
}
