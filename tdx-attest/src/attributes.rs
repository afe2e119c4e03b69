//! The bits of the attributes of a trust domain.
//!
//! Source: Intel TDX Module ABI specification, "ATTRIBUTES".

/// The host may read the memory and the registers of the trust domain.
pub(crate) const DEBUG: u64 = 1;

/// The host may observe the performance of the trust domain (bits 4 to 6).
pub(crate) const PROFILING: u64 = 0b111 << 4;

/// Service trust domains may be bound to the trust domain.
pub(crate) const SERVTD_EXT: u64 = 1 << 17;

/// An access to an unmapped page causes no #VE exception.
pub(crate) const SEPT_VE_DISABLE: u64 = 1 << 28;

/// The trust domain may be migrated to another host.
pub(crate) const MIGRATABLE: u64 = 1 << 29;

/// The trust domain may use protection keys for supervisor pages.
pub(crate) const PKS: u64 = 1 << 30;

/// The trust domain may use performance monitoring.
pub(crate) const PERFMON: u64 = 1 << 63;
