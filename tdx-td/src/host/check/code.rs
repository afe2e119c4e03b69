//! What `tdx-td host check` looks at, under names that never change.

use schemars::JsonSchema;
use serde::Serialize;

macro_rules! codes {
    ($($variant:ident $name:literal $wanted:literal,)*) => {
        /// Something that is looked at. Codes are added, never renamed or given another meaning.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        #[non_exhaustive]
        pub enum HostCode {
            $(#[doc = $wanted] $variant,)*
        }

        impl HostCode {
            /// Every code, sorted by name.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The code as users see it.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// What has to hold.
            pub fn wanted(self) -> &'static str {
                match self { $(Self::$variant => $wanted,)* }
            }
        }
    };
}

codes! {
    Container "CONTAINER" "the tools run on the host itself and not in a container",
    CpuPdpe1gb "CPU_PDPE1GB" "the processor has pages of 1 GiB (flag pdpe1gb)",
    CpuPse "CPU_PSE" "the processor has pages of 2 MiB (flag pse)",
    CpuSev "CPU_SEV" "the processor and the BIOS offer AMD SEV of the kind that is asked for (flags sev, sev_es, sev_snp)",
    CpuTdx "CPU_TDX" "the processor and the BIOS offer TDX (flag tdx_host_platform)",
    CpuVirtualization "CPU_VIRTUALIZATION" "the processor and the BIOS offer hardware virtualization (flag vmx or svm)",
    DmaEntryLimit "DMA_ENTRY_LIMIT" "VFIO may make as many mappings as a guest with all of the host's memory needs",
    Firmware "FIRMWARE" "there is firmware for such guests, where libvirt looks for it",
    Hugepages "HUGEPAGES" "no huge pages are set aside that such guests cannot use",
    Iommu "IOMMU" "the IOMMU is on",
    Iommufd "IOMMUFD" "the kernel has iommufd (/dev/iommu), which bounds no mappings",
    KernelArguments "KERNEL_ARGUMENTS" "no word of the kernel command line, or the lack of one, stands in the way",
    KernelTdx "KERNEL_TDX" "the kernel's KVM can run trust domains",
    Ksm "KSM" "the kernel does not merge pages of guests (KSM)",
    Kvm "KVM" "/dev/kvm is there and works",
    KvmAccess "KVM_ACCESS" "who runs this may open /dev/kvm",
    KvmAmdSev "KVM_AMD_SEV" "kvm_amd has SEV of the kind that is asked for turned on",
    KvmIntelTdx "KVM_INTEL_TDX" "kvm_intel has TDX turned on",
    KvmTdx "KVM_TDX" "KVM says that it runs trust domains",
    Libvirt "LIBVIRT" "libvirt can be reached",
    LibvirtAccess "LIBVIRT_ACCESS" "who runs this is root, or in the group libvirt",
    LibvirtSev "LIBVIRT_SEV" "libvirt and QEMU offer AMD SEV of the kind that is asked for",
    LibvirtTdx "LIBVIRT_TDX" "libvirt and QEMU offer trust domains",
    LibvirtVersion "LIBVIRT_VERSION" "libvirt is new enough",
    Memlock "MEMLOCK" "whoever runs QEMU without libvirt may lock the guest's memory",
    Network "NETWORK" "libvirt's network default is active",
    QemuVersion "QEMU_VERSION" "QEMU is new enough",
    Qgs "QGS" "a quote generation service listens where libvirt looks for it",
    SevFirmware "SEV_FIRMWARE" "AMD's secure processor answers (/dev/sev)",
    SevGuests "SEV_GUESTS" "there are ids left for such guests",
    TdxKeys "TDX_KEYS" "there are key ids left for trust domains",
    TdxModule "TDX_MODULE" "the TDX module is loaded and initialised",
    Thp "THP" "the kernel makes huge pages by itself (transparent huge pages)",
    VfioPci "VFIO_PCI" "the kernel has the module vfio-pci",
    VhostVsock "VHOST_VSOCK" "the kernel has /dev/vhost-vsock",
}

impl Serialize for HostCode {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl JsonSchema for HostCode {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "HostCode".into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        common::code::schema()
    }
}

/// The second part of the page `docs/codes.md`.
pub fn page() -> String {
    let mut text = "\n## What a host is looked at for\n\n\
        `code` of the items of `tdx-td host check`. These names stay as well.\n\n\
        | code | what has to hold |\n|---|---|\n"
        .to_owned();
    for code in HostCode::ALL {
        text.push_str(&format!("| `{}` | {} |\n", code.as_str(), code.wanted()));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_upper_snake_once_and_sorted() {
        let names: Vec<&str> = HostCode::ALL.iter().map(|code| code.as_str()).collect();
        for name in &names {
            assert!(name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_'), "{name}");
            assert!(!name.bytes().any(|b| b.is_ascii_lowercase()), "{name}");
        }
        assert!(names.is_sorted_by(|a, b| a < b), "{names:?}");
    }
}
