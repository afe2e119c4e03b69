//! What a guest is to have: flags over configuration over what fits the host.

use clap::Args;
use common::cli::Context;
use common::config::Config;
use common::libvirt::{Context as _, Libvirt, is_gone};
use common::units::{GIB, Size};
use common::{Error, Result};

use crate::builder::Launch;
use crate::capability::{self, Security, VirtType, VirtTypeArg};
use crate::seed::SeedArgs;
use crate::tdx::{Tdx, TdxArgs};

/// What the guest is to have.
#[derive(Debug, Args)]
pub struct GuestArgs {
    /// The domain's name [default: tdvirsh-trust_domain-UUID or tdvirsh-regular_vm-UUID]
    #[arg(long, value_parser = domain_name)]
    pub name: Option<String>,
    /// Launch security [default: tdx]
    #[arg(long, value_enum)]
    pub security: Option<Security>,
    /// Memory [default: 8G, or half of a smaller host]
    #[arg(long, value_name = "SIZE", value_parser = memory)]
    pub memory: Option<Size>,
    /// Virtual CPUs [default: 4, or what a smaller host has]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub vcpus: Option<u32>,
    /// libvirt network [default: default]
    #[arg(long, value_name = "NETWORK")]
    pub network: Option<String>,
    /// Accelerator [default: auto]
    #[arg(long, value_enum, value_name = "TYPE")]
    pub virt_type: Option<VirtTypeArg>,
    /// Free PCI Express ports for devices plugged in later
    #[arg(long, value_name = "N", default_value_t = 8)]
    #[arg(value_parser = clap::value_parser!(u32).range(0..=64))]
    pub hotplug_ports: u32,
    /// Flags of a trust domain.
    #[command(flatten)]
    pub tdx: TdxArgs,
    /// Who may log in.
    #[command(flatten)]
    pub seed: SeedArgs,
}

const MIN_MEMORY: u64 = 16 << 20;

fn memory(text: &str) -> Result<Size, String> {
    let size: Size = text.parse()?;
    if size.0 < MIN_MEMORY {
        return Err(format!("{size} is too little for a guest: at least {}", Size(MIN_MEMORY)));
    }
    Ok(size)
}

/// Source: libvirt's schema, `domaincommon.rng`: a name holds no newline; its driver forbids slashes.
fn domain_name(text: &str) -> Result<String, String> {
    match text {
        _ if text.trim().is_empty() => Err("it is empty".to_owned()),
        _ if text.contains('/') => Err("it holds a slash".to_owned()),
        _ if text.chars().any(char::is_control) => Err("it holds a control character".to_owned()),
        _ if text.len() > 200 => Err("it is longer than 200 bytes".to_owned()),
        "-" => Err("- stands for standard input".to_owned()),
        "." | ".." => Err("libvirt names folders after it".to_owned()),
        _ => Ok(text.to_owned()),
    }
}

/// Everything about the guest settled.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Launch security.
    pub launch: Launch,
    /// Accelerator.
    pub virt_type: VirtType,
    /// Memory, bytes.
    pub memory_bytes: u64,
    /// Virtual CPUs.
    pub vcpus: u32,
    /// libvirt network.
    pub network: String,
    /// Free PCI Express ports.
    pub hotplug_ports: u32,
    /// What the user should know.
    pub warnings: Vec<String>,
}

impl Settings {
    /// Settles every choice and checks it against the host.
    ///
    /// Errors: `unsupported` when the host cannot (no TDX, no KVM, too little memory); `not_found` or
    /// `conflict` for a network that is not there or not started; `invalid_input` for a configured
    /// value that is none.
    pub fn new(
        context: &Context,
        libvirt: &Libvirt,
        config: &Config,
        args: &GuestArgs,
    ) -> Result<Self> {
        let security = chosen(args.security, config.security.as_deref(), "security")?;
        let security = security.unwrap_or(Security::Tdx);
        let asked = chosen(args.virt_type, config.virt_type.as_deref(), "virt_type")?;
        let asked = asked.unwrap_or(VirtTypeArg::Auto);
        let launch = launch(security, &args.tdx)?;
        if security == Security::Tdx {
            if asked == VirtTypeArg::Qemu {
                return Err(Error::usage("--virt-type qemu cannot run a trust domain")
                    .hint("leave it out, or add --security none"));
            }
            capability::check_tdx(&context.host, libvirt)?;
        }
        let virt_type = capability::virt_type(&context.host, libvirt, asked, security)?;
        let host = capability::capacity(libvirt)?;
        let mut warnings = match &launch {
            Launch::Tdx(tdx) if libvirt.is_local() => {
                tdx.warnings(|path| context.host.path(path).exists())
            }
            Launch::Tdx(tdx) => tdx.warnings(|_| true),
            Launch::None => Vec::new(),
        };
        let memory_bytes = match args.memory.or(config.memory) {
            Some(Size(bytes)) if bytes > host.memory_bytes => {
                return Err(Error::unsupported(format!(
                    "the host has {} of memory, {} were asked for",
                    Size(host.memory_bytes),
                    Size(bytes)
                )));
            }
            Some(Size(bytes)) if bytes < MIN_MEMORY => {
                return Err(Error::invalid_input(format!(
                    "the configured memory is {}: at least {}",
                    Size(bytes),
                    Size(MIN_MEMORY)
                )));
            }
            // libvirt counts in KiB, QEMU in pages: whole MiB come out as asked for.
            Some(Size(bytes)) => bytes.next_multiple_of(1 << 20),
            None => default_memory(host.memory_bytes, &mut warnings),
        };
        let vcpus = match args.vcpus.or(config.vcpus) {
            Some(0) => return Err(Error::invalid_input("the configured vcpus is 0")),
            Some(vcpus) => {
                if vcpus > host.cpus {
                    capability::check_vcpus(libvirt, virt_type, vcpus)?;
                    warnings.push(format!("{vcpus} vCPUs on a host with {} processors", host.cpus));
                }
                vcpus
            }
            None if host.cpus < 4 => {
                warnings.push(format!("{} vCPUs instead of 4: the host has no more", host.cpus));
                host.cpus.max(1)
            }
            None => 4,
        };
        let network = args.network.clone().or_else(|| config.network.clone());
        let network = network.unwrap_or_else(|| "default".to_owned());
        check_network(libvirt, &network)?;
        let hotplug_ports = args.hotplug_ports;
        Ok(Self { launch, virt_type, memory_bytes, vcpus, network, hotplug_ports, warnings })
    }
}

/// The launch security with its own flags.
fn launch(security: Security, args: &TdxArgs) -> Result<Launch> {
    match security {
        Security::Tdx => Tdx::new(args).map(Launch::Tdx),
        Security::None if args.any() => {
            Err(Error::usage("the flags of a trust domain need --security tdx"))
        }
        Security::None => Ok(Launch::None),
    }
}

/// A flag's value, else the configured one.
fn chosen<T: std::str::FromStr<Err = String>>(
    flag: Option<T>,
    configured: Option<&str>,
    key: &str,
) -> Result<Option<T>> {
    match (flag, configured) {
        (Some(value), _) => Ok(Some(value)),
        (None, None) => Ok(None),
        (None, Some(text)) => text
            .parse()
            .map(Some)
            .map_err(|_| Error::invalid_input(format!("the configured {key} cannot be {text:?}"))),
    }
}

/// 8 GiB, or half of a host with less than 16, in whole 64 MiB.
fn default_memory(host: u64, warnings: &mut Vec<String>) -> u64 {
    const STEP: u64 = 64 << 20;
    let half = (host / 2 / STEP * STEP).max(STEP);
    if half >= 8 * GIB {
        return 8 * GIB;
    }
    warnings.push(format!("{} of memory instead of 8 GiB: that is half of the host's", Size(half)));
    half
}

fn check_network(libvirt: &Libvirt, name: &str) -> Result<()> {
    let found = match libvirt.connect().lookup_network_by_name(name) {
        Err(error) if is_gone(&error) => {
            return Err(Error::not_found(format!("no network '{name}'"))
                .hint("tdx-td virsh net-list --all shows those there are"));
        }
        found => found.context(format_args!("look up network '{name}'"))?,
    };
    match found.is_active().context(format_args!("ask about network '{name}'"))? {
        true => Ok(()),
        false => Err(Error::conflict(format!("network '{name}' is not active"))
            .hint(format!("tdx-td virsh net-start {name} starts it"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn little_hosts_get_little_guests() {
        let mut warnings = Vec::new();
        assert_eq!(default_memory(64 * GIB, &mut warnings), 8 * GIB);
        assert_eq!(default_memory(16 * GIB, &mut warnings), 8 * GIB);
        assert_eq!(warnings.len(), 0);
        assert_eq!(default_memory(4 * GIB, &mut warnings), 2 * GIB);
        assert_eq!(default_memory(1, &mut warnings), 64 << 20);
        assert_eq!(warnings.len(), 2);
    }

    #[test]
    fn names_libvirt_cannot_hold_are_refused() {
        for name in ["", " ", "a/b", "a\nb", "-", ".", "..", &"x".repeat(201)] {
            assert!(domain_name(name).is_err(), "{name:?}");
        }
        for name in ["web1", "a b & c", "日本語"] {
            assert!(domain_name(name).is_ok(), "{name:?}");
        }
    }
}
