//! Reads which driver a device is bound to, and changes it with writes to sysfs.
//!
//! Source: Linux `Documentation/ABI/testing/sysfs-bus-pci`, `driver_override`, `bind`, `unbind`,
//! `drivers_probe`.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use common::cli::log;
use common::system::exec::Runner;
use common::system::pci::Bdf;
use common::system::syscalls::{WriteError, Writer};
use common::system::sysroot::Host;
use common::{Error, ErrorKind, Result};
use tdx_iommu::resolve::modalias;

/// How long to wait for the kernel to bind or unbind one device.
pub const LIMIT: Duration = Duration::from_secs(10);

/// The VFIO driver for devices without a VFIO driver of their own.
pub const VFIO_PCI: &str = "vfio-pci";

/// The sysfs directory of one device.
#[derive(Debug)]
pub struct Sysfs<'h> {
    host: &'h Host,
    /// The PCI address.
    pub bdf: Bdf,
    /// The process that writes, after the first write.
    writer: Mutex<Option<Writer>>,
}

impl<'h> Sysfs<'h> {
    /// The device at a PCI address.
    pub fn new(host: &'h Host, bdf: Bdf) -> Self {
        Self { host, bdf, writer: Mutex::new(None) }
    }

    /// The path of an attribute.
    pub fn attribute(&self, name: &str) -> PathBuf {
        self.host.path(format!("/sys/bus/pci/devices/{}/{name}", self.bdf))
    }

    /// Whether the device exists.
    pub fn exists(&self) -> bool {
        self.attribute("vendor").exists()
    }

    /// The driver that the device is bound to.
    pub fn driver(&self) -> Option<String> {
        let link = std::fs::read_link(self.attribute("driver")).ok()?;
        Some(link.file_name()?.to_string_lossy().into_owned())
    }

    /// The driver override: the only driver that may bind the device.
    pub fn driver_override(&self) -> Option<String> {
        let text = std::fs::read_to_string(self.attribute("driver_override")).ok()?;
        Some(text.trim().to_owned()).filter(|name| !name.is_empty() && name != "(null)")
    }

    /// Sets the driver override; none removes it.
    pub fn set_override(&self, driver: Option<&str>) -> Result<()> {
        log::step(match driver {
            Some(driver) => format!("set the driver override of {} to {driver}", self.bdf),
            None => format!("remove the driver override of {}", self.bdf),
        });
        let doing = || format!("cannot set the driver override of {}", self.bdf);
        let text = format!("{}\n", driver.unwrap_or_default());
        self.write(&self.attribute("driver_override"), &text, doing)
    }

    /// Unbinds the device from its driver, if it has one.
    ///
    /// Errors: `failed`, which names the driver, when the kernel does not finish in time.
    pub fn unbind(&self) -> Result<()> {
        let Some(driver) = self.driver() else {
            return Ok(());
        };
        log::step(format_args!("unbind {} from {driver}", self.bdf));
        let doing = || format!("cannot unbind {} from {driver}", self.bdf);
        match self.write(&self.attribute("driver/unbind"), &self.bdf.to_string(), doing) {
            // Another process has unbound the device.
            Err(_) if self.driver().is_none() => Ok(()),
            done => done,
        }
    }

    /// Tells the kernel to bind the device to a driver.
    pub fn probe(&self) -> Result<()> {
        log::step(format_args!("ask the kernel to probe the drivers for {}", self.bdf));
        let doing = || format!("the kernel cannot bind {} to a driver", self.bdf);
        let path = self.host.path("/sys/bus/pci/drivers_probe");
        self.write(&path, &self.bdf.to_string(), doing)
    }

    /// Writes text to a file in sysfs, by a separate process.
    fn write(&self, path: &Path, text: &str, doing: impl Fn() -> String) -> Result<()> {
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let written = match writer.take().map_or_else(Writer::start, Ok) {
            Ok(started) => writer.insert(started).write(path, text, LIMIT),
            Err(error) => Err(WriteError::Refused(error)),
        };
        match written {
            Ok(()) => Ok(()),
            Err(WriteError::Stuck) => {
                let seconds = LIMIT.as_secs();
                let message = format!("{}: the kernel has not finished after {seconds} s", doing());
                Err(Error::failed(message).hint(
                    "the kernel waits for a process that has the device open: end that process, or reboot; \
                     until then the kernel keeps trying",
                ))
            }
            Err(WriteError::Refused(error)) => {
                let kind = match error.kind() {
                    io::ErrorKind::PermissionDenied => ErrorKind::Permission,
                    io::ErrorKind::NotFound => ErrorKind::NotFound,
                    io::ErrorKind::ResourceBusy => ErrorKind::Conflict,
                    _ => ErrorKind::Failed,
                };
                Err(Error::new(kind, doing()).because(error))
            }
        }
    }

    /// Waits until the device is bound to the given driver.
    ///
    /// Errors: `failed` when the device is bound to another driver, or to none.
    pub fn wait_for(&self, driver: &str) -> Result<()> {
        let end = Instant::now() + Duration::from_millis(500);
        loop {
            match self.driver() {
                Some(current) if current == driver => return Ok(()),
                current if Instant::now() >= end => {
                    let current = current.unwrap_or_else(|| "no driver".to_owned());
                    let message = format!("{} is bound to {current} instead of {driver}", self.bdf);
                    return Err(
                        Error::failed(message).hint("look for the reason in the kernel log: dmesg")
                    );
                }
                _ => std::thread::sleep(Duration::from_millis(10)),
            }
        }
    }
}

/// The VFIO variant drivers of this kernel, which are made for certain devices.
#[derive(Debug, Default)]
pub struct Variants {
    /// The lines `alias vfio_pci:PATTERN MODULE` of modules.alias.
    aliases: String,
}

impl Variants {
    /// Reads the variant drivers from modules.alias; empty when the file is absent.
    ///
    /// Source: Linux `Documentation/driver-api/vfio-pci-device-specific-driver-acceptance.rst`;
    /// libvirt's `virPCIDeviceFindBestVFIOVariant()` looks in the same place.
    pub fn read(host: &Host) -> Self {
        let list = modalias::read_aliases(host);
        let lines = list.lines().filter(|line| line.starts_with("alias vfio_pci:"));
        Self { aliases: lines.map(|line| format!("{line}\n")).collect() }
    }

    /// The VFIO driver for a device: the driver whose pattern matches with the fewest `*`, else `vfio-pci`.
    pub fn driver(&self, device: Sysfs<'_>) -> String {
        let alias = std::fs::read_to_string(device.attribute("modalias")).unwrap_or_default();
        variant(&self.aliases, alias.trim()).unwrap_or(VFIO_PCI).to_owned()
    }
}

/// The module of the best `vfio_pci:` alias for a device.
fn variant<'a>(aliases: &'a str, modalias: &str) -> Option<&'a str> {
    let id = modalias.strip_prefix("pci:")?;
    let candidates = aliases.lines().filter_map(|line| {
        let (pattern, module) = line.strip_prefix("alias vfio_pci:")?.split_once(' ')?;
        modalias::glob_matches(pattern, id).then_some((pattern.matches('*').count(), module.trim()))
    });
    // The alias of vfio-pci itself matches every device.
    candidates
        .min_by_key(|(stars, _)| *stars)
        .map(|(_, module)| module)
        .filter(|m| *m != "vfio_pci")
}

/// Loads the module of a driver, unless the driver is loaded.
///
/// Errors: `unsupported` when the kernel has no such module.
pub fn load(host: &Host, driver: &str) -> Result<()> {
    if loaded(host, driver).is_some() {
        return Ok(());
    }
    load_module(host, driver)
}

/// Loads a module, unless it is loaded.
///
/// Errors: `unsupported` when the kernel has no such module, and below `--sysroot`.
pub fn load_module(host: &Host, module: &str) -> Result<()> {
    if host.has(&format!("/sys/module/{}", module.replace('-', "_"))) {
        return Ok(());
    }
    if !host.is_this_machine() {
        return Err(Error::unsupported(format!(
            "module {module} is not loaded in the --sysroot directory"
        ))
        .hint("run this command without --sysroot, which prevents the loading of modules"));
    }
    log::step(format_args!("load module {module}"));
    Runner::new("modprobe", "kmod").args([module]).run().map(drop).map_err(|error| {
        match error.kind() {
            ErrorKind::CommandFailed => Error::unsupported(format!("cannot load module {module}"))
                .because(error)
                .hint("install a kernel that was built with CONFIG_VFIO_PCI=m"),
            _ => error,
        }
    })
}

/// The name of a driver in sysfs; the given name while the driver is not loaded.
pub fn loaded_name(host: &Host, driver: &str) -> String {
    loaded(host, driver).unwrap_or_else(|| driver.to_owned())
}

/// The name of a loaded driver in sysfs. Driver and module names may differ in `_` and `-`.
fn loaded(host: &Host, driver: &str) -> Option<String> {
    let names = [driver.to_owned(), driver.replace('_', "-"), driver.replace('-', "_")];
    names.into_iter().find(|name| host.has(&format!("/sys/bus/pci/drivers/{name}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn driver_prefers_the_most_specific_alias() {
        let aliases = "alias pci:v*d*sv*sd*bc*sc*i* unrelated\n\
            alias vfio_pci:v000010DEd00002342sv*sd*bc*sc*i* nvgrace_gpu_vfio_pci\n\
            alias vfio_pci:v*d*sv*sd*bc*sc*i* vfio_pci\n";
        let grace = "pci:v000010DEd00002342sv000010DEsd000016C1bc03sc02i00";
        assert_eq!(variant(aliases, grace), Some("nvgrace_gpu_vfio_pci"));
        let hopper = "pci:v000010DEd00002330sv000010DEsd000016C1bc03sc02i00";
        assert_eq!(variant(aliases, hopper), None);
        assert_eq!(variant("", hopper), None);
        assert_eq!(variant(aliases, ""), None);
    }
}
