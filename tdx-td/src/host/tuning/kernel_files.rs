//! The kernel files, and the systemd units, that tuning reads and changes.

/// The switch of merging identical pages (KSM): 0 is off, 1 is on, 2 separates all merged pages.
///
/// Source: Linux `Documentation/admin-guide/mm/ksm.rst`, as for the other files of KSM.
pub const KSM_RUN: &str = "/sys/kernel/mm/ksm/run";
/// The value of [`KSM_RUN`] that separates merged pages, on the way to another value.
pub const KSM_APART: &str = "2";
/// Whether pages of different NUMA nodes are merged. This file cannot be written while merged pages exist.
pub const KSM_MERGE: &str = "/sys/kernel/mm/ksm/merge_across_nodes";
/// The number of merged pages.
pub const KSM_SHARED: &str = "/sys/kernel/mm/ksm/pages_shared";
/// The systemd unit that turns merging on at boot.
pub const KSM_MERGER: &str = "ksm.service";
/// The systemd unit that turns merging on and off, depending on free memory.
pub const KSM_TUNER: &str = "ksmtuned.service";

/// When the kernel uses transparent huge pages.
///
/// Source: Linux `Documentation/admin-guide/mm/transhuge.rst`.
pub const THP: &str = "/sys/kernel/mm/transparent_hugepage/enabled";
/// How willing the kernel is to swap, 0 to 200.
///
/// Source: Linux `Documentation/admin-guide/sysctl/vm.rst`.
pub const SWAPPINESS: &str = "/proc/sys/vm/swappiness";
/// The number of reserved huge pages: pages of 2 MiB, and pages of the default size.
///
/// Source: Linux `Documentation/admin-guide/mm/hugetlbpage.rst`.
pub const HUGEPAGES: [&str; 2] =
    ["/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages", "/proc/sys/vm/nr_hugepages"];
