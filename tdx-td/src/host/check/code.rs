//! The checks of `tdx-td host check`, under names that never change.

use schemars::JsonSchema;
use serde::Serialize;

macro_rules! codes {
    ($($variant:ident $name:literal $wanted:literal,)*) => {
        /// A check of the host. Codes are added, but never renamed or given another meaning.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        #[non_exhaustive]
        pub enum HostCode {
            $(#[doc = $wanted] $variant,)*
        }

        impl HostCode {
            /// Every code, sorted by name.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// Returns the name of the code.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// Returns the requirement that the code checks.
            pub fn wanted(self) -> &'static str {
                match self { $(Self::$variant => $wanted,)* }
            }
        }
    };
}

codes! {
    Container "CONTAINER" "the command runs on the host itself and not in a container",
    CpuPdpe1gb "CPU_PDPE1GB" "the processor supports pages of 1 GiB (flag pdpe1gb)",
    CpuPse "CPU_PSE" "the processor supports pages of 2 MiB (flag pse)",
    CpuSev "CPU_SEV" "the processor and the BIOS offer the requested kind of AMD SEV (flags sev, sev_es, sev_snp)",
    CpuTdx "CPU_TDX" "the processor and the BIOS offer TDX (flag tdx_host_platform)",
    CpuVirtualization "CPU_VIRTUALIZATION" "the processor and the BIOS offer hardware virtualization (flag vmx or svm)",
    DmaEntryLimit "DMA_ENTRY_LIMIT" "VFIO allows as many DMA mappings as a guest with all of the host's memory needs",
    Firmware "FIRMWARE" "libvirt finds a firmware build for the requested kinds of guests",
    Hugepages "HUGEPAGES" "for trust domains: no huge pages are reserved, because trust domains cannot use them",
    Iommu "IOMMU" "the IOMMU is on",
    Iommufd "IOMMUFD" "the kernel offers iommufd (/dev/iommu), which does not limit DMA mappings",
    KernelArguments "KERNEL_ARGUMENTS" "the kernel command line has every argument that the guests need, and none that prevents them",
    KernelTdx "KERNEL_TDX" "the kernel's KVM supports trust domains",
    Ksm "KSM" "for protected guests: the kernel does not merge identical pages (KSM)",
    Kvm "KVM" "/dev/kvm exists and works",
    KvmAccess "KVM_ACCESS" "this user may open /dev/kvm",
    KvmAmdSev "KVM_AMD_SEV" "the requested kind of SEV is turned on in kvm_amd",
    KvmIntelTdx "KVM_INTEL_TDX" "TDX is turned on in kvm_intel",
    KvmTdx "KVM_TDX" "KVM reports that it runs trust domains",
    Libvirt "LIBVIRT" "libvirt can be reached",
    LibvirtAccess "LIBVIRT_ACCESS" "this user is root, or in the group libvirt",
    LibvirtSev "LIBVIRT_SEV" "libvirt and QEMU offer the requested kind of AMD SEV",
    LibvirtTdx "LIBVIRT_TDX" "libvirt and QEMU offer trust domains",
    LibvirtVersion "LIBVIRT_VERSION" "libvirt is new enough for the requested kinds of guests",
    Memlock "MEMLOCK" "this user may lock a guest's memory, for QEMU without libvirt",
    Network "NETWORK" "libvirt's network default is active",
    QemuVersion "QEMU_VERSION" "QEMU is new enough for the requested kinds of guests",
    Qgs "QGS" "a quote generation service listens on the socket that libvirt uses",
    SevFirmware "SEV_FIRMWARE" "AMD's secure processor works (/dev/sev)",
    SevGuests "SEV_GUESTS" "an ASID is free for another guest of the requested kind of AMD SEV",
    TdxKeys "TDX_KEYS" "a private key ID is free for another trust domain",
    TdxModule "TDX_MODULE" "the TDX module is loaded and initialized",
    Thp "THP" "the kernel uses transparent huge pages (always or madvise)",
    VfioPci "VFIO_PCI" "the kernel has the module vfio-pci",
    VhostVsock "VHOST_VSOCK" "/dev/vhost-vsock exists, for the vsock devices of guests",
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

/// Returns the second part of the page `docs/reference/codes.md`.
pub fn page() -> String {
    let mut text = "\n## Checks of the host\n\n\
        Each item of `tdx-td host check` has one of these codes in `code`. `status` is the result:\n\n\
        | status | meaning |\n|---|---|\n\
        | `ok` | the requirement is met |\n\
        | `warn` | the requirement is not met; guests run, with the disadvantage that `found` names |\n\
        | `fail` | the requirement is not met, and the requested kinds of guests do not run; the command exits 10 |\n\
        | `not_applicable` | the requirement does not matter on this host, or was not checked because of a failed check |\n\
        | `unknown` | the requirement could not be checked |\n\n\
        | code | requirement |\n|---|---|\n"
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
    fn codes_are_unique_sorted_and_in_upper_case() {
        let names: Vec<&str> = HostCode::ALL.iter().map(|code| code.as_str()).collect();
        for name in &names {
            assert!(name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_'), "{name}");
            assert!(!name.bytes().any(|b| b.is_ascii_lowercase()), "{name}");
        }
        assert!(names.is_sorted_by(|a, b| a < b), "{names:?}");
    }
}
