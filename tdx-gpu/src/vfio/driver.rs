//! Drivers and their devices: who drives what, and the writes to sysfs that change it.
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

/// How long the kernel may take over one device.
pub const LIMIT: Duration = Duration::from_secs(10);

/// The VFIO driver for devices that want none of their own.
pub const VFIO_PCI: &str = "vfio-pci";

/// The sysfs of one device.
#[derive(Debug)]
pub struct Sysfs<'h> {
    host: &'h Host,
    /// Its address.
    pub bdf: Bdf,
    /// What writes, once something was written.
    writer: Mutex<Option<Writer>>,
}

impl<'h> Sysfs<'h> {
    /// The device at an address.
    pub fn new(host: &'h Host, bdf: Bdf) -> Self {
        Self { host, bdf, writer: Mutex::new(None) }
    }

    /// Where an attribute is.
    pub fn attribute(&self, name: &str) -> PathBuf {
        self.host.path(format!("/sys/bus/pci/devices/{}/{name}", self.bdf))
    }

    /// Whether the device is there.
    pub fn exists(&self) -> bool {
        self.attribute("vendor").exists()
    }

    /// The driver that has it.
    pub fn driver(&self) -> Option<String> {
        let link = std::fs::read_link(self.attribute("driver")).ok()?;
        Some(link.file_name()?.to_string_lossy().into_owned())
    }

    /// The only driver that may have it.
    pub fn driver_override(&self) -> Option<String> {
        let text = std::fs::read_to_string(self.attribute("driver_override")).ok()?;
        Some(text.trim().to_owned()).filter(|name| !name.is_empty() && name != "(null)")
    }

    /// Says which driver alone may have it; none lifts that.
    pub fn set_override(&self, driver: Option<&str>) -> Result<()> {
        log::step(format_args!("{}: driver_override = {}", self.bdf, driver.unwrap_or("none")));
        let doing = || format!("cannot set the driver_override of {}", self.bdf);
        let text = format!("{}\n", driver.unwrap_or_default());
        self.write(&self.attribute("driver_override"), &text, doing)
    }

    /// Takes it from the driver that has it; nothing to do when none has.
    ///
    /// Errors: `failed` when the kernel does not finish in time, naming the driver.
    pub fn unbind(&self) -> Result<()> {
        let Some(driver) = self.driver() else {
            return Ok(());
        };
        log::step(format_args!("{}: unbind from {driver}", self.bdf));
        let doing = || format!("cannot unbind {} from {driver}", self.bdf);
        match self.write(&self.attribute("driver/unbind"), &self.bdf.to_string(), doing) {
            // Somebody else was quicker.
            Err(_) if self.driver().is_none() => Ok(()),
            done => done,
        }
    }

    /// Has the kernel look for a driver for it.
    pub fn probe(&self) -> Result<()> {
        log::step(format_args!("{}: probe", self.bdf));
        let doing = || format!("no driver takes {}", self.bdf);
        let path = self.host.path("/sys/bus/pci/drivers_probe");
        self.write(&path, &self.bdf.to_string(), doing)
    }

    /// Has the process that writes for this device do so.
    fn write(&self, path: &Path, text: &str, doing: impl Fn() -> String) -> Result<()> {
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let written = match writer.take().map_or_else(Writer::start, Ok) {
            Ok(started) => writer.insert(started).write(path, text, LIMIT),
            Err(error) => Err(WriteError::Refused(error)),
        };
        match written {
            Ok(()) => Ok(()),
            Err(WriteError::Stuck) => {
                let message = format!("{}: the kernel does not finish", doing());
                Err(Error::failed(message).hint(
                    "it waits for whoever has the device open; the write goes on by itself, and a \
                     reboot ends it for certain",
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

    /// Waits until this driver has it.
    ///
    /// Errors: `failed` when another one has, or none.
    pub fn wait_for(&self, driver: &str) -> Result<()> {
        let end = Instant::now() + Duration::from_millis(500);
        loop {
            match self.driver() {
                Some(current) if current == driver => return Ok(()),
                current if Instant::now() >= end => {
                    let current = current.unwrap_or_else(|| "no driver".to_owned());
                    let message = format!("{current} has {} now, not {driver}", self.bdf);
                    return Err(Error::failed(message).hint("the kernel's log may say why: dmesg"));
                }
                _ => std::thread::sleep(Duration::from_millis(10)),
            }
        }
    }
}

/// The drivers of VFIO that are made for kinds of devices, of this kernel.
#[derive(Debug, Default)]
pub struct Variants {
    /// Lines `alias vfio_pci:PATTERN MODULE` of modules.alias, which has thousands of others.
    aliases: String,
}

impl Variants {
    /// Reads which there are; none where the modules cannot be found.
    ///
    /// Source: Linux `Documentation/driver-api/vfio-pci-device-specific-driver-acceptance.rst`;
    /// libvirt's `virPCIDeviceFindBestVFIOVariant()` looks in the same place.
    pub fn read(host: &Host) -> Self {
        let list = modalias::read_aliases(host);
        let lines = list.lines().filter(|line| line.starts_with("alias vfio_pci:"));
        Self { aliases: lines.map(|line| format!("{line}\n")).collect() }
    }

    /// The driver for a device: the one whose pattern has the fewest `*`, else `vfio-pci`.
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
    // The plain driver's own alias is all stars.
    candidates
        .min_by_key(|(stars, _)| *stars)
        .map(|(_, module)| module)
        .filter(|m| *m != "vfio_pci")
}

/// Has the driver in the kernel, loading its module when it is not.
///
/// Errors: `unsupported` when there is no such module.
pub fn load(host: &Host, driver: &str) -> Result<()> {
    if loaded(host, driver).is_some() {
        return Ok(());
    }
    load_module(host, driver)
}

/// Loads a module that is not loaded.
///
/// Errors: `unsupported` when there is no such module, and on a machine made of files.
pub fn load_module(host: &Host, module: &str) -> Result<()> {
    if host.has(&format!("/sys/module/{}", module.replace('-', "_"))) {
        return Ok(());
    }
    if !host.is_this_machine() {
        return Err(Error::unsupported(format!("{module} is not loaded on that machine"))
            .hint("modules are loaded only without --sysroot"));
    }
    log::step(format_args!("load the module {module}"));
    Runner::new("modprobe", "kmod").args([module]).run().map(drop).map_err(|error| {
        match error.kind() {
            ErrorKind::CommandFailed => {
                Error::unsupported(format!("this kernel has no module {module}"))
                    .because(error)
                    .hint("kernels with CONFIG_VFIO_PCI have it as a module")
            }
            _ => error,
        }
    })
}

/// The name by which a driver is known in sysfs; its own while it is not loaded.
pub fn loaded_name(host: &Host, driver: &str) -> String {
    loaded(host, driver).unwrap_or_else(|| driver.to_owned())
}

/// The driver's folder in sysfs, which may be named with `_` where its module is with `-`, and the other
/// way round.
fn loaded(host: &Host, driver: &str) -> Option<String> {
    let names = [driver.to_owned(), driver.replace('_', "-"), driver.replace('-', "_")];
    names.into_iter().find(|name| host.has(&format!("/sys/bus/pci/drivers/{name}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_special_driver_is_taken() {
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
