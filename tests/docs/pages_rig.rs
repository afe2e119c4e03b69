//! The commands of the documentation that need devices of the host, or a libvirt that knows trust domains.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use crate::support::kernel::Kernel;
use crate::support::page::Page;
use crate::support::rig::{Rig, guest_image};
use crate::support::stand_in_gpu;
use crate::support::tools::{Run, repository};

/// What every guest of a page is like.
const SMALL: &str = "export TDX_VIRT_TYPE=qemu TDX_MEMORY=256M TDX_VCPUS=1";

fn run_on_devices(page: &str) {
    let kernel = Kernel::start_with_libvirt();
    let nics = kernel.shell("tdx-iommu scan --driver e1000e --format name");
    let [switch, gpu] = nics.text().lines().collect::<Vec<_>>()[..] else { panic!("{nics:?}") };
    stand_in_gpu::install(&kernel, gpu, switch);
    let (image, root) = (guest_image(false), repository());
    kernel
        .shell(&format!(
            "cp '{}' guest.qcow2 && ln -s '{}/examples' .",
            image.display(),
            root.display()
        ))
        .text();
    let state = "virsh list --all --name; virsh vol-list default; \
        grep . /sys/bus/pci/devices/*/driver_override; find /run/tdx /etc/tdx -type f; true";
    let before = kernel.shell(state).stdout;
    let run = |line: &str| -> Run { kernel.shell(line) };
    Page::read(page).run(&[("devices", &format!("{SMALL} TDX_SECURITY=none GPU={gpu}"), &run)]);
    assert_eq!(kernel.shell(state).stdout, before, "{page} leaves something");
}

fn run_on_tdx(page: &str) {
    let rig = Rig::start_tdx();
    std::fs::copy(guest_image(false), rig.scratch().join("guest.qcow2")).unwrap();
    let before = rig.state();
    let run = |line: &str| -> Run { rig.shell(line) };
    Page::read(page).run(&[("tdx", "export TDX_MEMORY=512M TDX_VCPUS=1", &run)]);
    assert_eq!(rig.state(), before, "{page} leaves something");
}
