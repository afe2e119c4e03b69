//! Converts errors of libvirt to [`Error`] with exit codes.

use virt::{error::Error as VirtError, sys};

use super::target::Target;
use crate::error::{Error, ErrorKind, Result};

/// Adds to an error of libvirt the operation that failed.
pub trait Context<T> {
    /// Maps the error to `cannot <doing>`, with the exit code for libvirt's error code.
    fn context(self, doing: impl std::fmt::Display) -> Result<T>;
}

impl<T> Context<T> for std::result::Result<T, VirtError> {
    fn context(self, doing: impl std::fmt::Display) -> Result<T> {
        self.map_err(|cause| failure(cause, doing))
    }
}

/// The error `cannot <doing>`, with the exit code for libvirt's error code.
pub fn failure(cause: VirtError, doing: impl std::fmt::Display) -> Error {
    let out_of_reach = cause.code().to_raw() == sys::VIR_ERR_NO_CONNECT || is_lost(&cause);
    let error = Error::new(kind(&cause), format!("cannot {doing}")).because(Cause(cause));
    match out_of_reach {
        true => {
            error.hint("check on that host whether libvirtd is running: systemctl status libvirtd")
        }
        false => error,
    }
}

/// An error of libvirt, shown without the numbers that the `virt` crate appends.
#[derive(Debug)]
struct Cause(VirtError);

impl std::fmt::Display for Cause {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "libvirt: {}", self.0.message())
    }
}

impl std::error::Error for Cause {}

/// Source: <https://libvirt.org/html/libvirt-virterror.html#virErrorNumber>.
fn kind(error: &VirtError) -> ErrorKind {
    match error.code().to_raw() {
        sys::VIR_ERR_NO_DOMAIN
        | sys::VIR_ERR_NO_NETWORK
        | sys::VIR_ERR_NO_NODE_DEVICE
        | sys::VIR_ERR_NO_STORAGE_POOL
        | sys::VIR_ERR_NO_STORAGE_VOL => ErrorKind::NotFound,
        sys::VIR_ERR_DOM_EXIST
        | sys::VIR_ERR_OPERATION_INVALID
        | sys::VIR_ERR_RESOURCE_BUSY
        | sys::VIR_ERR_STORAGE_VOL_EXIST => ErrorKind::Conflict,
        sys::VIR_ERR_ACCESS_DENIED
        | sys::VIR_ERR_AUTH_CANCELLED
        | sys::VIR_ERR_AUTH_FAILED
        | sys::VIR_ERR_AUTH_UNAVAILABLE
        | sys::VIR_ERR_OPERATION_DENIED => ErrorKind::Permission,
        sys::VIR_ERR_CONFIG_UNSUPPORTED
        | sys::VIR_ERR_NO_CONNECT
        | sys::VIR_ERR_NO_SUPPORT
        | sys::VIR_ERR_OPERATION_UNSUPPORTED => ErrorKind::Unsupported,
        _ if is_lost(error) => ErrorKind::Unsupported,
        _ => ErrorKind::Failed,
    }
}

/// Whether the error means that the connection is lost. The client library has no code for this, but reports all
/// its errors about the connection in the error domain RPC.
///
/// Source: libvirt `src/rpc/virnetclient.c`, `src/rpc/virnetsocket.c`.
fn is_lost(error: &VirtError) -> bool {
    error.domain().to_raw() == sys::VIR_FROM_RPC
}

/// Whether the error means that the domain, pool or volume does not exist (any more).
pub fn is_gone(error: &VirtError) -> bool {
    kind(error) == ErrorKind::NotFound
}

/// The error for a connection that could not be opened. `errno` is the error number of a failed system call.
pub(super) fn cannot_connect(target: &Target, cause: VirtError, errno: Option<i32>) -> Error {
    let refused = kind(&cause) == ErrorKind::Permission
        || errno == Some(rustix::io::Errno::ACCESS.raw_os_error());
    let message = match (&target.host, &target.uri) {
        (Some(host), Some(uri)) => format!("cannot connect to libvirt on host '{host}' at {uri}"),
        (_, Some(uri)) => format!("cannot connect to libvirt at {uri}"),
        (_, None) => "cannot connect to libvirt".to_owned(),
    };
    let error = match (refused, &target.host) {
        (true, _) => Error::permission(message)
            .hint("run the command as root or as a member of the group libvirt"),
        (false, Some(_)) => Error::unsupported(message).hint(
            "check three things: the uri in hosts.yaml is correct, ssh can log in to the host, and libvirtd is \
             running on the host",
        ),
        (false, None) => Error::unsupported(message).hint(
            "install and start libvirtd (Debian, Ubuntu: libvirt-daemon-system), or pass another URI with --connect",
        ),
    };
    error.because(Cause(cause))
}
