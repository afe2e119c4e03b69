//! Calls of libvirt's C library that the `virt` crate lacks (DHCP leases, launch security) or gets wrong (domain
//! statistics).

use std::ffi::{CStr, c_char, c_uint};
use std::ptr;

use schemars::JsonSchema;
use serde::Serialize;
use virt::domain::Domain;
use virt::error::Error as VirtError;
use virt::network::Network;
use virt::sys;

use super::connection::Libvirt;
use super::error::{Context, is_gone};
use crate::error::Result;

/// A domain's state, in virsh's words.
///
/// Source: `virDomainState`, <https://libvirt.org/html/libvirt-libvirt-domain.html#virDomainState>.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// libvirt does not report the state.
    #[serde(rename = "no state")]
    None,
    /// Running.
    Running,
    /// Blocked on a resource.
    Idle,
    /// Paused.
    Paused,
    /// Being shut down by its guest.
    #[serde(rename = "in shutdown")]
    Shutdown,
    /// Shut off.
    #[serde(rename = "shut off")]
    Off,
    /// Crashed.
    Crashed,
    /// Suspended by its guest's power management.
    PmSuspended,
}

impl State {
    /// The state for a number of `virDomainState`.
    pub fn from_raw(state: u32) -> Self {
        match state {
            sys::VIR_DOMAIN_RUNNING => Self::Running,
            sys::VIR_DOMAIN_BLOCKED => Self::Idle,
            sys::VIR_DOMAIN_PAUSED => Self::Paused,
            sys::VIR_DOMAIN_SHUTDOWN => Self::Shutdown,
            sys::VIR_DOMAIN_SHUTOFF => Self::Off,
            sys::VIR_DOMAIN_CRASHED => Self::Crashed,
            sys::VIR_DOMAIN_PMSUSPENDED => Self::PmSuspended,
            _ => Self::None,
        }
    }

    /// The state as virsh prints it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "no state",
            Self::Running => "running",
            Self::Idle => "idle",
            Self::Paused => "paused",
            Self::Shutdown => "in shutdown",
            Self::Off => "shut off",
            Self::Crashed => "crashed",
            Self::PmSuspended => "pmsuspended",
        }
    }
}

/// A DHCP lease of a libvirt network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DhcpLease {
    /// The guest's hardware address, lower case with colons.
    pub mac: String,
    /// IPv4 or IPv6 address without prefix length.
    pub ip: String,
    /// Expiry, seconds since the epoch.
    pub expires: i64,
}

/// What the host reports about the launch of an AMD SEV or SEV-ES guest. Only the measurement is authenticated, by a
/// key; the host could forge all other fields.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LaunchMeasurement {
    /// The measurement and its nonce, base64.
    pub measurement: String,
    /// Major version of the firmware's interface.
    pub api_major: u32,
    /// Minor version of the firmware's interface.
    pub api_minor: u32,
    /// The firmware's build.
    pub build_id: u32,
    /// The policy of the guest.
    pub policy: u32,
}

impl Libvirt {
    /// How a running guest was launched. None when libvirt does not report all of it: before libvirt 8.0, and for
    /// guests without AMD SEV or with SEV-SNP.
    ///
    /// Source: <https://libvirt.org/html/libvirt-libvirt-domain.html#virDomainGetLaunchSecurityInfo>.
    pub fn launch_measurement(&self, domain: &Domain) -> Result<Option<LaunchMeasurement>> {
        let mut parameters: sys::virTypedParameterPtr = ptr::null_mut();
        let mut count = 0;
        // SAFETY: domain is a live object of this connection; parameters and count are out parameters.
        let done = unsafe {
            sys::virDomainGetLaunchSecurityInfo(domain.as_ptr(), &mut parameters, &mut count, 0)
        };
        if done < 0 {
            return Err(VirtError::last_error())
                .context("read the launch security state of a domain");
        }
        // SAFETY: libvirt returned count parameters, which nothing uses after they are freed.
        let measurement = unsafe {
            let measurement = launch_measurement(parameters, count);
            sys::virTypedParamsFree(parameters, count);
            measurement
        };
        Ok(measurement)
    }

    /// Every domain, running or shut off, with its state, in one call to the daemon.
    ///
    /// Source: <https://libvirt.org/html/libvirt-libvirt-domain.html#virConnectGetAllDomainStats>.
    pub fn domains(&self) -> Result<Vec<(Domain, State)>> {
        let mut records: *mut sys::virDomainStatsRecordPtr = ptr::null_mut();
        // SAFETY: the connection is open for as long as self lives; records is an out parameter.
        let count = unsafe {
            sys::virConnectGetAllDomainStats(
                self.connect().as_ptr(),
                sys::VIR_DOMAIN_STATS_STATE as c_uint,
                &mut records,
                0,
            )
        };
        if count < 0 {
            return Err(VirtError::last_error()).context("list domains");
        }
        let domains = (0..count as usize).map(|index| {
            // SAFETY: libvirt returned count records, each valid until the list is freed below. The
            // reference taken on the domain is the one that Domain gives back.
            unsafe {
                let record = *records.add(index);
                sys::virDomainRef((*record).dom);
                (Domain::from_ptr((*record).dom), state(record))
            }
        });
        let domains = domains.collect();
        // SAFETY: records came from libvirt and are not used after this.
        unsafe { sys::virDomainStatsRecordListFree(records) };
        Ok(domains)
    }

    /// The XML with which a domain that was suspended to disk will resume; none for another domain. It may name
    /// other disks than the domain's definition.
    ///
    /// Source: <https://libvirt.org/html/libvirt-libvirt-domain.html#virDomainManagedSaveGetXMLDesc>.
    pub fn managed_save_xml(&self, domain: &Domain) -> Result<Option<String>> {
        let doing = "read the saved state of a domain";
        match domain.has_managed_save(0) {
            Err(error) if is_gone(&error) => return Ok(None),
            Ok(false) => return Ok(None),
            saved => saved.context(doing)?,
        };
        // SAFETY: domain is a live object of this connection.
        let xml = unsafe { sys::virDomainManagedSaveGetXMLDesc(domain.as_ptr(), 0) };
        if xml.is_null() {
            let error = VirtError::last_error();
            return match domain.has_managed_save(0) {
                Ok(true) => Err(error).context(doing),
                _ => Ok(None), // resumed or removed meanwhile
            };
        }
        // SAFETY: libvirt returned a NUL-terminated string that the caller has to free, once.
        unsafe {
            let copy = text(xml);
            libc_free(xml.cast());
            Ok(Some(copy))
        }
    }

    /// The DHCP leases of one network, for IPv4 and IPv6.
    ///
    /// Source: <https://libvirt.org/html/libvirt-libvirt-network.html#virNetworkGetDHCPLeases>.
    pub fn leases(&self, network: &Network) -> Result<Vec<DhcpLease>> {
        let mut list: *mut sys::virNetworkDHCPLeasePtr = ptr::null_mut();
        // SAFETY: network is a live object of this connection; a null MAC asks for every lease.
        let count =
            unsafe { sys::virNetworkGetDHCPLeases(network.as_ptr(), ptr::null(), &mut list, 0) };
        if count < 0 {
            return Err(VirtError::last_error()).context("list DHCP leases");
        }
        let mut leases = Vec::new();
        for index in 0..count as usize {
            // SAFETY: libvirt returned count leases; each is freed once, after its strings are copied.
            unsafe {
                let lease = *list.add(index);
                leases.push(DhcpLease {
                    mac: text((*lease).mac).to_lowercase(),
                    ip: text((*lease).ipaddr),
                    expires: (*lease).expirytime,
                });
                sys::virNetworkDHCPLeaseFree(lease);
            }
        }
        // SAFETY: the array itself is the caller's to free(3); a null pointer is fine.
        unsafe { libc_free(list.cast()) };
        Ok(leases)
    }
}

/// The `state.state` parameter of a statistics record.
///
/// # Safety
/// `record` must come from libvirt and not be freed yet.
unsafe fn state(record: sys::virDomainStatsRecordPtr) -> State {
    // SAFETY: the caller's promise; nparams says how many parameters there are, and the union member
    // read is the one the parameter's type names.
    unsafe {
        let count = usize::try_from((*record).nparams).unwrap_or(0);
        let parameters = match count {
            0 => &[][..],
            _ => std::slice::from_raw_parts((*record).params, count),
        };
        let found = parameters.iter().find(|p| {
            CStr::from_ptr(p.field.as_ptr()).to_bytes() == b"state.state"
                && p.type_ == sys::VIR_TYPED_PARAM_INT as i32
        });
        found.map_or(State::None, |p| State::from_raw(p.value.i as u32))
    }
}

/// Assembles a [`LaunchMeasurement`] from libvirt's parameters; none when one is missing.
///
/// # Safety
/// `parameters` must be `count` parameters from libvirt that are not freed yet.
unsafe fn launch_measurement(
    parameters: sys::virTypedParameterPtr,
    count: i32,
) -> Option<LaunchMeasurement> {
    let count = usize::try_from(count).ok().filter(|_| !parameters.is_null())?;
    // SAFETY: the caller's promise; the union member read is the one the parameter's type names.
    unsafe {
        let parameters = std::slice::from_raw_parts(parameters, count);
        let find = |name: &CStr, kind| {
            let is = |p: &&sys::virTypedParameter| {
                CStr::from_ptr(p.field.as_ptr()) == name && p.type_ == kind
            };
            parameters.iter().find(is).map(|p| p.value)
        };
        let number = |name| find(name, sys::VIR_TYPED_PARAM_UINT as i32).map(|value| value.ui);
        let measurement = sys::VIR_DOMAIN_LAUNCH_SECURITY_SEV_MEASUREMENT;
        Some(LaunchMeasurement {
            measurement: text(find(measurement, sys::VIR_TYPED_PARAM_STRING as i32)?.s),
            api_major: number(sys::VIR_DOMAIN_LAUNCH_SECURITY_SEV_API_MAJOR)?,
            api_minor: number(sys::VIR_DOMAIN_LAUNCH_SECURITY_SEV_API_MINOR)?,
            build_id: number(sys::VIR_DOMAIN_LAUNCH_SECURITY_SEV_BUILD_ID)?,
            policy: number(sys::VIR_DOMAIN_LAUNCH_SECURITY_SEV_POLICY)?,
        })
    }
}

/// Copies a C string; null is empty.
///
/// # Safety
/// `pointer` must be null or a NUL-terminated string.
unsafe fn text(pointer: *const c_char) -> String {
    match pointer.is_null() {
        true => String::new(),
        // SAFETY: the caller's promise.
        false => unsafe { CStr::from_ptr(pointer) }.to_string_lossy().into_owned(),
    }
}

unsafe extern "C" {
    /// free(3), with which a caller frees memory that libvirt allocated.
    #[link_name = "free"]
    fn libc_free(pointer: *mut std::ffi::c_void);
}
