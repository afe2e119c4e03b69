//! The settings of a new guest: from flags, else from the configuration, else defaults that fit the host.

use std::path::Path;

use common::cli::Context;
use common::cli::config::{self, Config};
use common::libvirt::{Context as _, Libvirt, is_gone};
use common::units::{GIB, MEMORY, Size};
use common::{Error, Result};

use crate::capability;
use crate::capability::{Capacity, Security, VirtType, VirtTypeArg};
use crate::create::ports::PortRequest;
use crate::create::request::GuestRequest;
use crate::domain::metadata::TEMPLATE;
use crate::domain::purpose::Purpose;
use crate::domain_xml::template::dialect::Dialect;
use crate::scenario::disk_kind::DiskKind;
use crate::scenario::library::{DEFAULT, Scenario};
use crate::scenario::protection;
use crate::scenario::resolve::{ResolvedSettings, Target};
use crate::security::launch::Launch;

/// The smallest memory of a guest, in bytes.
pub(crate) const MIN_MEMORY: u64 = 16 << 20;

/// Parses the name of a domain.
///
/// Source: libvirt's schema, `domaincommon.rng`: a name holds no newline; its driver forbids slashes.
pub(crate) fn domain_name(text: &str) -> Result<String, String> {
    match text {
        _ if text.trim().is_empty() => Err("the name is empty".to_owned()),
        _ if text.contains('/') => Err("the name contains a slash".to_owned()),
        _ if text.chars().any(char::is_control) => {
            Err("the name contains a control character".to_owned())
        }
        _ if text.len() > 200 => Err("the name is longer than 200 bytes".to_owned()),
        "-" => Err("- means standard input".to_owned()),
        "." | ".." => Err("libvirt cannot create a directory of this name".to_owned()),
        _ => Ok(text.to_owned()),
    }
}

/// The settings of a new guest.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Launch security.
    pub launch: Launch,
    /// Accelerator.
    pub virt_type: VirtType,
    /// Memory in bytes.
    pub memory_bytes: u64,
    /// Number of virtual CPUs.
    pub vcpus: u32,
    /// Name of the libvirt network.
    pub network: String,
    /// The settings of the scenario: of the guest, of its disk, of the host.
    pub resolved: ResolvedSettings,
    /// Number of free PCI Express ports.
    pub hotplug_ports: u32,
    /// A port of the host that is forwarded to the guest's SSH server.
    pub ssh_port: Option<PortRequest>,
    /// Whether libvirt runs passt to forward the port. Otherwise QEMU's user network forwards it, set up by
    /// raw arguments for QEMU.
    pub passt: bool,
    /// Whether the guest gets a vsock device.
    pub vsock: bool,
    /// Warnings for the user.
    pub warnings: Vec<String>,
}

impl Settings {
    /// Determines all settings and, if the domain is to be created, checks them against the host.
    ///
    /// Errors: `unsupported` if the host does not support them (no TDX, no KVM); `not_found` or
    /// `conflict` for a network that does not exist or is not active; `invalid_input` for an invalid
    /// configured value.
    pub fn new(
        context: &Context,
        libvirt: &Libvirt,
        config: &Config,
        request: &GuestRequest,
        kind: DiskKind,
        purpose: Purpose,
    ) -> Result<Self> {
        let name = request.settings.scenario.as_deref();
        let scenario = Scenario::find(&context.host, name.unwrap_or(DEFAULT))?;
        let security = match name {
            Some(_) => {
                protection::supported_security(context, libvirt, &scenario, request.security)?
            }
            None => chosen(request.security, config.security.as_deref(), "security")?
                .unwrap_or(Security::Tdx),
        };
        let asked = chosen(request.virt_type, config.virt_type.as_deref(), "virt_type")?;
        let asked = asked.unwrap_or(VirtTypeArg::Auto);
        let launch = Launch::new(security, &request.launch)?;
        if launch.is_secure() && asked == VirtTypeArg::Qemu {
            let message = format!("--virt-type qemu cannot run a guest with --security {security}");
            let remove = match request.virt_type {
                Some(_) => "omit --virt-type".to_owned(),
                None => format!(
                    "add --virt-type auto, because {} says qemu",
                    config::source("virt_type")
                ),
            };
            return Err(Error::usage(message).hint(format!("{remove}, or add --security none")));
        }
        if purpose.is_create() {
            capability::check_security(&context.host, libvirt, security)?;
        }
        check_built_in_definition(context, libvirt, security)?;
        let virt_type = capability::virt_type(&context.host, libvirt, asked, security)?;
        let exists = |path: &Path| !libvirt.is_local() || context.host.path(path).exists();
        let mut warnings = launch.warnings(exists);
        let target = Target { security, virt_type, disk: kind };
        let resolved =
            ResolvedSettings::new(context, libvirt, config, &request.settings, &scenario, target)?;
        warnings.extend(resolved.warnings.iter().cloned());
        let host = capability::capacity(&context.host, libvirt)?;
        let guest = &resolved.profile.guest;
        let memory_bytes = memory_bytes(guest.memory, host, &mut warnings)?;
        let vcpus = vcpus(guest.vcpus, host, &mut warnings)?;
        let network = guest.network.clone().unwrap_or_else(|| "default".to_owned());
        if purpose.is_create() {
            check_network(libvirt, &network)?;
            warnings.extend(check_vcpus(libvirt, host, virt_type, Some(vcpus))?);
        }
        Ok(Self {
            launch,
            virt_type,
            memory_bytes,
            vcpus,
            network,
            resolved,
            hotplug_ports: request.hotplug_ports,
            ssh_port: request.ssh_port,
            passt: forwards_by_passt(context, libvirt, virt_type, request.ssh_port)?,
            vsock: libvirt.is_local() && context.host.has("/dev/vhost-vsock"),
            warnings,
        })
    }

    /// Returns the request in the form that a later `new` of the same name compares.
    pub fn request(&self) -> Vec<(String, String)> {
        let ssh_port = self.ssh_port.map_or_else(|| "none".to_owned(), |port| port.to_string());
        let own = [
            (TEMPLATE, "none".to_owned()),
            ("security", self.launch.security().to_string()),
            ("virt_type", self.virt_type.as_str().to_owned()),
            ("memory_bytes", self.memory_bytes.to_string()),
            ("vcpus", self.vcpus.to_string()),
            ("network", self.network.clone()),
            ("hotplug_ports", self.hotplug_ports.to_string()),
            ("ssh_port", ssh_port),
        ];
        let own = own.map(|(key, value)| (key.to_owned(), value));
        own.into_iter()
            .chain(self.launch.request())
            .chain(self.resolved.request.iter().cloned())
            .collect()
    }
}

/// Fails for a libvirt that cannot run a guest of the built-in definition with this launch security.
///
/// Errors: `unsupported`.
fn check_built_in_definition(
    context: &Context,
    libvirt: &Libvirt,
    security: Security,
) -> Result<()> {
    if security == Security::Tdx && Dialect::detect(&context.host, libvirt)? == Dialect::Canonical {
        return Err(Error::unsupported(
            "libvirt from Canonical's preview packages can create trust domains only from a template",
        )
        .hint("add --xml-template FILE with a template of those packages"));
    }
    Ok(())
}

/// Returns the guest's memory in bytes: the configured size in whole MiB, or what is usual on this host.
///
/// Errors: `invalid_input` for less than [`MIN_MEMORY`].
fn memory_bytes(
    configured: Option<Size>,
    host: Capacity,
    warnings: &mut Vec<String>,
) -> Result<u64> {
    match configured {
        Some(Size(bytes)) if bytes < MIN_MEMORY => {
            let (size, least) = (Size(bytes), Size(MIN_MEMORY));
            Err(Error::invalid_input(format!(
                "memory in the configuration is {size}, but must be at least {least}"
            )))
        }
        // libvirt counts in KiB and QEMU in pages. Whole MiB are not rounded by either.
        Some(Size(bytes)) => Ok(bytes.min(*MEMORY.end()).next_multiple_of(1 << 20)),
        None => {
            let usual = host.usual_memory();
            warnings.extend((usual < 8 * GIB).then(|| {
                format!(
                    "the guest gets {} of memory, half of the host's, instead of 8 GiB",
                    Size(usual)
                )
            }));
            Ok(usual)
        }
    }
}

/// Returns the number of virtual CPUs: the configured one, or 4 as far as the host has them.
///
/// Errors: `invalid_input` for 0.
fn vcpus(configured: Option<u32>, host: Capacity, warnings: &mut Vec<String>) -> Result<u32> {
    match configured {
        Some(0) => {
            Err(Error::invalid_input("vcpus in the configuration is 0, but must be at least 1"))
        }
        Some(vcpus) => Ok(vcpus),
        None if host.cpus < 4 => {
            warnings.push(format!(
                "the guest gets {} vCPUs, as many as the host has, instead of 4",
                host.cpus
            ));
            Ok(host.cpus.max(1))
        }
        None => Ok(4),
    }
}

/// Returns whether passt forwards the SSH port.
///
/// Errors: `unsupported` for an IPv6 port without passt.
fn forwards_by_passt(
    context: &Context,
    libvirt: &Libvirt,
    virt_type: VirtType,
    port: Option<PortRequest>,
) -> Result<bool> {
    let Some(port) = port else { return Ok(false) };
    let passt = capability::has_passt(&context.host, libvirt, virt_type)?;
    if port.is_ipv6() && !passt {
        return Err(Error::unsupported("--ssh-port with an IPv6 address needs passt")
            .hint("install passt (libvirt 9.2 or newer uses it), or name an IPv4 address"));
    }
    Ok(passt)
}

/// Fails for more virtual CPUs than a guest can have on the host. Returns a warning for more than the host has
/// processors.
///
/// Errors: `unsupported` (exit 6).
pub(crate) fn check_vcpus(
    libvirt: &Libvirt,
    host: Capacity,
    virt_type: VirtType,
    vcpus: Option<u32>,
) -> Result<Option<String>> {
    let Some(vcpus) = vcpus.filter(|vcpus| *vcpus > host.cpus) else {
        return Ok(None);
    };
    capability::check_vcpus(libvirt, virt_type, vcpus)?;
    Ok(Some(format!("the guest has {vcpus} vCPUs, more than the host's {} processors", host.cpus)))
}

/// Returns the value of the flag, else the configured one.
fn chosen<T: std::str::FromStr<Err = String>>(
    flag: Option<T>,
    configured: Option<&str>,
    key: &str,
) -> Result<Option<T>> {
    match (flag, configured) {
        (Some(value), _) => Ok(Some(value)),
        (None, None) => Ok(None),
        (None, Some(text)) => text.parse().map(Some).map_err(|_| {
            Error::invalid_input(format!("invalid value {text:?} for {key} in the configuration"))
        }),
    }
}

/// Fails unless the network exists and is active.
///
/// Errors: `not_found`, `conflict`.
pub(crate) fn check_network(libvirt: &Libvirt, name: &str) -> Result<()> {
    let found = match libvirt.connect().lookup_network_by_name(name) {
        Err(error) if is_gone(&error) => {
            return Err(Error::not_found(format!("network '{name}' not found"))
                .hint("to see all networks, run tdx-td virsh net-list --all"));
        }
        found => found.context(format_args!("look up network '{name}'"))?,
    };
    match found.is_active().context(format_args!("read the state of network '{name}'"))? {
        true => Ok(()),
        false => Err(Error::conflict(format!("network '{name}' is not active"))
            .hint(format!("tdx-td virsh net-start {name}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn domain_name_refuses_names_that_libvirt_does_not_accept() {
        for name in ["", " ", "a/b", "a\nb", "-", ".", "..", &"x".repeat(201)] {
            assert!(domain_name(name).is_err(), "{name:?}");
        }
        for name in ["web1", "a b & c", "日本語"] {
            assert!(domain_name(name).is_ok(), "{name:?}");
        }
    }
}
