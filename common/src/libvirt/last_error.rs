//! A field of libvirt's last error that the `virt` crate leaves out.

use virt::sys;

/// The error number of the system call because of which this thread's last call of libvirt failed; none when no
/// system call failed.
///
/// Source: libvirt `src/util/virerror.c`, `virReportSystemErrorFull()`: it is in `int1`.
pub(super) fn last_errno() -> Option<i32> {
    // SAFETY: libvirt returns null, or this thread's own error, which stays until its next call.
    let error = unsafe { sys::virGetLastError().as_ref() }?;
    (error.code == sys::VIR_ERR_SYSTEM_ERROR as i32).then_some(error.int1)
}
