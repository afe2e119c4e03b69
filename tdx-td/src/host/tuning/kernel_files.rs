//! The files of the kernel, and the units of systemd, that tuning reads and sets.

/// The switch of merging pages of the same content (KSM): 0, 1, or 2 to take all apart.
///
/// Source: Linux `Documentation/admin-guide/mm/ksm.rst`, as for the other files of KSM.
pub const KSM_RUN: &str = "/sys/kernel/mm/ksm/run";
/// The value of [`KSM_RUN`] that takes merged pages apart, on the way to another value.
pub const KSM_APART: &str = "2";
/// Whether pages of different NUMA nodes are merged. It cannot be changed while pages are merged.
pub const KSM_MERGE: &str = "/sys/kernel/mm/ksm/merge_across_nodes";
/// How many merged pages there are.
pub const KSM_SHARED: &str = "/sys/kernel/mm/ksm/pages_shared";
/// The unit that turns merging on at boot.
pub const KSM_MERGER: &str = "ksm.service";
/// The unit that turns merging on and off all the time, by how much memory is free.
pub const KSM_TUNER: &str = "ksmtuned.service";

/// When the kernel uses huge pages without being asked for them.
///
/// Source: Linux `Documentation/admin-guide/mm/transhuge.rst`.
pub const THP: &str = "/sys/kernel/mm/transparent_hugepage/enabled";
/// Source: Linux `Documentation/admin-guide/sysctl/vm.rst`.
pub const SWAPPINESS: &str = "/proc/sys/vm/swappiness";
/// Pages of 2 MiB that are reserved, whatever the default size is; then those of the default size.
///
/// Source: Linux `Documentation/admin-guide/mm/hugetlbpage.rst`.
pub const HUGEPAGES: [&str; 2] =
    ["/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages", "/proc/sys/vm/nr_hugepages"];
