//! Checks for guests with host devices.

use tdx_gpu::vfio::dma_entry_limit;

use crate::host::check::code::HostCode;
use crate::host::check::facts::{Facts, Vendor};
use crate::host::check::item::CheckItem;

/// Checks whether host devices can be passed through to guests.
pub fn judge(facts: &Facts) -> Vec<CheckItem> {
    vec![iommu(facts), module(facts), iommufd(facts), limit(facts)]
}

fn iommu(facts: &Facts) -> CheckItem {
    let code = HostCode::Iommu;
    match &facts.iommu {
        Err(why) => code.unknown(why),
        Ok(true) => code.ok("the kernel lists IOMMU groups"),
        Ok(false) => {
            let words = facts.command_line.as_deref().unwrap_or_default();
            let off = words.iter().find(|word| {
                matches!(word.as_str(), "intel_iommu=off" | "amd_iommu=off" | "iommu=off")
            });
            let intel = matches!(&facts.cpu, Ok(cpu) if cpu.vendor != Some(Vendor::Amd));
            let fix = match off {
                Some(word) => format!("remove {word} from the kernel command line"),
                None if intel && !words.iter().any(|word| word == "intel_iommu=on") => {
                    "turn on VT-d in the BIOS, and add intel_iommu=on to the kernel command line"
                        .to_owned()
                }
                None => "turn on VT-d, or AMD's IOMMU, in the BIOS".to_owned(),
            };
            code.fail("the kernel lists no IOMMU groups", fix)
        }
    }
}

fn module(facts: &Facts) -> CheckItem {
    let code = HostCode::VfioPci;
    match &facts.vfio_pci {
        Err(why) => code.unknown(why),
        Ok(true) => code.ok("module vfio-pci is installed"),
        Ok(false) => code.fail(
            "module vfio-pci not found",
            "install all modules of the kernel, such as Ubuntu's linux-modules-extra",
        ),
    }
}

fn iommufd(facts: &Facts) -> CheckItem {
    let code = HostCode::Iommufd;
    if facts.has("/dev/iommu") {
        code.ok("/dev/iommu")
    } else if !facts.has("/dev") {
        code.unknown("the --sysroot directory does not contain /dev")
    } else {
        code.warn(
            "/dev/iommu does not exist: libvirt passes devices through by their VFIO groups",
            "modprobe iommufd, on a kernel with CONFIG_IOMMUFD",
        )
    }
}

/// Checks the limit of DMA mappings. It applies to devices that are passed through by VFIO groups, the only way
/// of libvirt below 12.1.
fn limit(facts: &Facts) -> CheckItem {
    let code = HostCode::DmaEntryLimit;
    let memory = match &facts.memory {
        Ok(memory) => *memory,
        Err(why) => return code.unknown(why),
    };
    let needed = dma_entry_limit::needed(memory);
    match &facts.dma_entry_limit {
        Err(why) => code.unknown(why),
        Ok(None) => code.not_applicable("module vfio_iommu_type1 is not loaded"),
        Ok(Some(limit)) if *limit >= needed => code.ok(limit.to_string()),
        Ok(Some(limit)) => code.warn(
            format!("{limit}; a trust domain with all of the host's memory needs {needed}"),
            "bind the devices with tdx-gpu bind, which raises the limit while devices are bound",
        ),
    }
}
