//! What `new`, `render` and `overlay` are asked for: flags over configuration over what fits the host.

use std::path::{Path, PathBuf};

use clap::Args;
use common::cli::Context;
use common::config::Config;
use common::libvirt::{Context as _, Libvirt, is_gone};
use common::units::{GIB, Size};
use common::{Error, Result, input};
use serde::Deserialize;
use tdx_pool::PoolArgs;
use tdx_pool::ensure;
use tdx_pool::import::{self, Options};
use tdx_pool::overlay::Base;
use tdx_pool::pool::Pool;

use crate::capability::{self, Security, VirtType, VirtTypeArg};

/// Which image, into which pool.
#[derive(Debug, Args)]
pub struct ImageArgs {
    /// The disk image: a volume of the pool, or a file, which is imported
    #[arg(short = 'i', long, value_name = "IMAGE", conflicts_with = "base")]
    pub td_image: Option<PathBuf>,
    /// A volume of the pool, or - for what tdx-pool import or volumes printed
    #[arg(long, value_name = "VOLUME")]
    pub base: Option<String>,
    /// The pool's name [default: tdvirsh-pool, or the pool that owns its folder]
    #[arg(long, value_name = "NAME")]
    pub pool: Option<String>,
    /// Size of the guest's disk [default: that of the image]
    #[arg(long, value_name = "SIZE")]
    pub disk_size: Option<Size>,
}

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
        _ => Ok(text.to_owned()),
    }
}

/// Everything about the guest settled.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Launch security.
    pub security: Security,
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
        if security == Security::Tdx {
            capability::check_tdx(&context.host, libvirt)?;
        }
        let virt_type = capability::virt_type(&context.host, libvirt, asked, security)?;
        let host = capability::capacity(libvirt)?;
        let mut warnings = Vec::new();
        let memory_bytes = match args.memory.or(config.memory) {
            Some(Size(bytes)) if bytes > host.memory_bytes => {
                return Err(Error::unsupported(format!(
                    "the host has {} of memory, {} were asked for",
                    Size(host.memory_bytes),
                    Size(bytes)
                )));
            }
            Some(Size(bytes)) => bytes,
            None => default_memory(host.memory_bytes, &mut warnings),
        };
        let vcpus = match args.vcpus.or(config.vcpus) {
            Some(0) => return Err(Error::invalid_input("the configured vcpus is 0")),
            Some(vcpus) => {
                if vcpus > host.cpus {
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
        Ok(Self { security, virt_type, memory_bytes, vcpus, network, hotplug_ports, warnings })
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

/// The base image settled: one that is in the pool, or one that will be.
#[derive(Debug)]
pub enum Image {
    /// In the pool already.
    There(Base),
    /// To be imported.
    Import(Box<import::Plan>),
}

impl Image {
    /// The image as an overlay's base.
    pub fn base(&self) -> Base {
        match self {
            Self::There(base) => base.clone(),
            Self::Import(plan) => plan.base(),
        }
    }
}

/// What a document for `--base -` must tell.
#[derive(Deserialize)]
struct BaseItem {
    name: String,
    pool: String,
}

/// The image flags with `--base -` read.
#[derive(Debug)]
pub struct ImageRequest {
    pool: Option<String>,
    image: Option<PathBuf>,
    base: Option<String>,
}

impl ImageRequest {
    /// Reads standard input where the flags say so.
    ///
    /// Errors: `invalid_input` for no such document, or not exactly one image in it.
    pub fn read(args: &ImageArgs) -> Result<Self> {
        let mut request =
            Self { pool: args.pool.clone(), image: args.td_image.clone(), base: args.base.clone() };
        if args.base.as_deref() == Some(input::STDIN) {
            let kinds = ["tdx.pool.import", "tdx.pool.volumes"];
            let items: Vec<BaseItem> = input::items(&kinds, "what tdx-pool import printed")?;
            let count = items.len();
            let [item] = <[BaseItem; 1]>::try_from(items).map_err(|_| {
                Error::invalid_input(format!("one base image was expected, {count} came"))
            })?;
            if args.pool.as_ref().is_some_and(|pool| *pool != item.pool) {
                return Err(Error::conflict(format!("the image is in pool '{}'", item.pool)));
            }
            request.base = Some(item.name);
            request.pool = Some(item.pool);
        }
        Ok(request)
    }

    /// The pool it is about, as the pool crate's flag.
    pub fn pool_args(&self) -> PoolArgs {
        PoolArgs { pool: self.pool.clone() }
    }

    /// Finds the image: the pool first, then the file system.
    ///
    /// Errors: `not_found`; whatever an import can be refused for.
    pub fn find(
        &self,
        context: &Context,
        libvirt: &Libvirt,
        config: &Config,
        pool: &ensure::Plan,
        warnings: &mut Vec<String>,
    ) -> Result<Image> {
        if let Some(name) = &self.base {
            let absent = || Error::not_found(format!("pool '{}' does not exist", pool.pool_name()));
            return Base::find(pool.found().ok_or_else(absent)?, name).map(Image::There);
        }
        let import = |path: &Path| {
            let plan = import::Plan::new(libvirt, pool, path, Options::default())?;
            Ok(Image::Import(Box::new(plan)))
        };
        let Some(image) = self.image.as_ref().or(config.image.as_ref()) else {
            return default_image(context, pool, import);
        };
        match bare_name(image).map(|name| in_pool(pool, name)).transpose()?.flatten() {
            Some(base) => {
                if image.exists() {
                    let (image, pool) = (image.display(), pool.pool_name());
                    warnings.push(format!(
                        "'{image}' is taken from pool '{pool}'; name the file ./{image} to import it"
                    ));
                }
                Ok(Image::There(base))
            }
            None => import(image),
        }
    }
}

/// A name that could be a volume's: no folder before it.
fn bare_name(image: &Path) -> Option<&str> {
    image.to_str().filter(|name| !name.contains('/'))
}

fn in_pool(pool: &ensure::Plan, name: &str) -> Result<Option<Base>> {
    let Some(pool) = pool.found().filter(|pool| pool.is_active()) else {
        return Ok(None);
    };
    match Pool::volume(pool, name)? {
        None => Ok(None),
        Some(_) => Base::find(pool, name).map(Some),
    }
}

/// The image that Canonical's instructions build for this release, in `./image` or in the pool.
fn default_image(
    context: &Context,
    pool: &ensure::Plan,
    import: impl FnOnce(&Path) -> Result<Image>,
) -> Result<Image> {
    let release = context.host.read("/etc/os-release")?.unwrap_or_default();
    let version = release.lines().find_map(|line| line.strip_prefix("VERSION_ID="));
    let version = version.unwrap_or_default().trim_matches('"');
    let name = format!("tdx-guest-ubuntu-{version}-generic.qcow2");
    let file = Path::new("image").join(&name);
    if file.exists() {
        return import(&file);
    }
    in_pool(pool, &name)?.map(Image::There).ok_or_else(|| {
        Error::not_found(format!(
            "no image was named, and {name} is neither in ./image nor in the pool"
        ))
        .hint("name one with --td-image IMAGE, or set image: in /etc/tdx/tdx.yaml")
    })
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
        for name in ["", " ", "a/b", "a\nb", "-", &"x".repeat(201)] {
            assert!(domain_name(name).is_err(), "{name:?}");
        }
        for name in ["web1", "a b & c", "日本語"] {
            assert!(domain_name(name).is_ok(), "{name:?}");
        }
    }
}
