//! A PCI device as the kernel shows it.

use std::io;
use std::path::Path;
use std::str::FromStr;

use common::device_state::bound_devices::Identity;
use common::system::pci::Bdf;

use crate::inventory::class::Class;
use crate::inventory::config_space::ConfigSpace;
use crate::inventory::path::HopPath;
use crate::inventory::role::Role;
use crate::inventory::sysfs::AttributeDirectory;

/// A PCI device, bridges included.
///
/// Source: Linux `Documentation/ABI/testing/sysfs-bus-pci`, `Documentation/PCI/sysfs-pci.rst`.
#[derive(Debug, Clone)]
pub struct Device {
    /// The PCI address.
    pub bdf: Bdf,
    /// The hop path.
    pub path: Option<HopPath>,
    /// The bridges above the device, the one nearest to the root first.
    pub upstream: Vec<Bdf>,
    /// Vendor id.
    pub vendor: Option<u16>,
    /// Device id.
    pub device: Option<u16>,
    /// Subsystem vendor id, which names the maker of the card.
    pub subsystem_vendor: Option<u16>,
    /// Subsystem device id, which names the card.
    pub subsystem_device: Option<u16>,
    /// Class code.
    pub class: Option<Class>,
    /// Revision.
    pub revision: Option<u8>,
    /// Device serial number: sixteen hexadecimal digits. Only root can read it, and not from a device in D3cold.
    pub serial: Option<String>,
    /// Whether the device is in power state D3cold, so that its configuration space was not read.
    pub asleep: bool,
    /// The driver that the device is bound to.
    pub driver: Option<String>,
    /// The driver override: the only driver that may bind the device.
    pub driver_override: Option<String>,
    /// The number of the IOMMU group, which can change with a reboot.
    pub group: Option<u32>,
    /// The nearest NUMA node.
    pub numa_node: Option<u32>,
    /// Whether the firmware shows its console on the device.
    pub boot_vga: bool,
    /// Whether the device is a bridge, by its header.
    pub is_bridge: bool,
    /// The reset methods, as the kernel names and orders them.
    pub reset_methods: Vec<String>,
    /// Whether the device can be reset. Kernels before 5.15 do not list the methods.
    pub can_reset: bool,
    /// How many virtual functions the device supports.
    pub total_vfs: u32,
    /// How many virtual functions the device has.
    pub num_vfs: u32,
    /// For a virtual function, its physical function.
    pub physfn: Option<Bdf>,
    /// The role of the device.
    pub role: Role,
}

/// Reads the attributes of one device, and collects messages about attributes that cannot be read.
struct Reader<'a> {
    bdf: Bdf,
    folder: AttributeDirectory,
    problems: &'a mut Vec<String>,
}

impl Device {
    /// Reads the device at `bdf` below `devices`, which is `/sys/bus/pci/devices`.
    ///
    /// Returns none when the device was removed. An attribute that cannot be read or parsed is unknown, and a message
    /// is added to `problems`.
    pub fn read(devices: &Path, bdf: Bdf, problems: &mut Vec<String>) -> Option<Self> {
        let entry = devices.join(bdf.to_string());
        let link = std::fs::read_link(&entry).ok();
        let mut device = Self::unknown(bdf);
        let before = problems.len();
        match AttributeDirectory::open(&entry) {
            Ok(folder) => Reader { bdf, folder, problems }.fill(&mut device),
            Err(error) => problems.push(format!("cannot read {bdf}: {error}")),
        }
        if device.vendor.is_none() && entry.symlink_metadata().is_err() {
            // The device was removed during the read, so the messages about it are dropped.
            problems.truncate(before);
            return None;
        }
        let offset = device.physfn.map_or(0, |physfn| bdf.bus.wrapping_sub(physfn.bus));
        let place = link.as_deref().and_then(Path::to_str);
        if let Some((path, mut chain)) = place.and_then(|p| HopPath::from_sysfs(p, offset)) {
            chain.pop();
            device.path = Some(path);
            device.upstream = chain;
        }
        Some(device)
    }

    fn unknown(bdf: Bdf) -> Self {
        Self {
            bdf,
            path: None,
            upstream: Vec::new(),
            vendor: None,
            device: None,
            subsystem_vendor: None,
            subsystem_device: None,
            class: None,
            revision: None,
            serial: None,
            asleep: false,
            driver: None,
            driver_override: None,
            group: None,
            numa_node: None,
            boot_vga: false,
            is_bridge: false,
            reset_methods: Vec::new(),
            can_reset: false,
            total_vfs: 0,
            num_vfs: 0,
            physfn: None,
            role: Role::Other,
        }
    }

    /// Reads the serial number and the type of header of a device in D3cold. A read of the configuration space makes
    /// the kernel wake the device and suspend it again. For a device that does not wake, both stay unknown.
    ///
    /// Source: Linux `drivers/pci/pci-sysfs.c`, `pci_read_config()`, which calls
    /// `pci_config_pm_runtime_get()`.
    pub(crate) fn wake(&mut self, devices: &Path) {
        let folder = AttributeDirectory::open(&devices.join(self.bdf.to_string()));
        let Ok(Some(file)) = folder.and_then(|folder| folder.file("config")) else { return };
        let config = ConfigSpace::new(file);
        self.serial = self.serial.take().or_else(|| config.serial());
        if let Some(kind) = config.header_type() {
            self.is_bridge = kind != 0;
            self.asleep = false;
        }
    }

    /// The properties that tell the device from another one that is later found at its address.
    pub fn identity(&self) -> Identity {
        Identity {
            vendor: self.vendor,
            device: self.device,
            subsystem_vendor: self.subsystem_vendor,
            subsystem_device: self.subsystem_device,
            class: self.class.map(|class| class.0),
            serial: self.serial.clone(),
        }
    }

    /// Whether the device is bound to a VFIO driver: vfio-pci or a variant driver.
    pub fn on_vfio(&self) -> bool {
        // All these drivers have "vfio" in their names: mlx5_vfio_pci, nvgrace_gpu_vfio_pci, …
        self.driver.as_deref().is_some_and(|driver| driver.contains("vfio"))
    }

    /// Whether the device is bound to a driver of the host: any driver except VFIO drivers and `pci-stub`.
    pub fn in_use(&self) -> bool {
        self.driver.as_deref().is_some_and(|driver| driver != "pci-stub") && !self.on_vfio()
    }

    /// Whether the driver of the device prevents that another device of the IOMMU group is given to a guest.
    ///
    /// Source: Linux `driver_managed_dma` in `struct device_driver`: VFIO, pci-stub and pcieport set it.
    pub fn blocks_group(&self) -> bool {
        self.in_use() && self.driver.as_deref() != Some("pcieport")
    }
}

impl Reader<'_> {
    fn fill(mut self, device: &mut Device) {
        device.vendor = self.hex("vendor");
        device.device = self.hex("device");
        device.subsystem_vendor = self.hex("subsystem_vendor");
        device.subsystem_device = self.hex("subsystem_device");
        device.class = self.hex("class").map(Class);
        device.revision = self.hex("revision");
        device.driver = self.link("driver");
        device.driver_override =
            self.text("driver_override").filter(|name| !name.is_empty() && name != "(null)");
        device.group = self.link("iommu_group").and_then(|name| self.number("iommu_group", &name));
        // -1 means no NUMA node.
        device.numa_node = self.parsed::<i32>("numa_node").and_then(|node| node.try_into().ok());
        if device.class.is_none_or(Class::is_display) {
            device.boot_vga = self.parsed::<u8>("boot_vga") == Some(1);
        }
        let methods = self.text("reset_method");
        device.can_reset = methods.is_some() || self.folder.has("reset");
        device.reset_methods =
            methods.iter().flat_map(|text| text.split_whitespace()).map(str::to_owned).collect();
        device.total_vfs = self.parsed("sriov_totalvfs").unwrap_or(0);
        if device.total_vfs > 0 {
            device.num_vfs = self.parsed("sriov_numvfs").unwrap_or(0);
        }
        device.physfn = self.link("physfn").and_then(|name| self.number("physfn", &name));
        self.look_inside(device);
        device.role = Role::from_class(device.class, device.vendor, device.is_bridge);
    }

    /// Reads the configuration space, or the nearest substitute in sysfs.
    fn look_inside(&mut self, device: &mut Device) {
        device.serial = match self.folder.text("serial_number", serial) {
            Ok(serial) => serial.flatten(),
            Err(_) => None, // only root may read the file
        };
        // A device that saves power is not woken for this.
        device.asleep = self.text("power_state").is_some_and(|state| state == "D3cold");
        let mut header = None;
        if !device.asleep
            && let Ok(Some(file)) = self.folder.file("config")
        {
            let config = ConfigSpace::new(file);
            header = config.header_type();
            device.serial = device.serial.take().or_else(|| config.serial());
        }
        let by_class = || device.class.is_some_and(Class::is_bridge) || self.folder.has("pci_bus");
        device.is_bridge = header.map_or_else(by_class, |kind| kind != 0);
    }

    fn text(&mut self, name: &str) -> Option<String> {
        let text = self.folder.text(name, str::to_owned);
        self.known(name, text)
    }

    fn link(&mut self, name: &str) -> Option<String> {
        let link = self.folder.link(name);
        self.known(name, link)
    }

    fn known<T>(&mut self, name: &str, value: io::Result<Option<T>>) -> Option<T> {
        value.unwrap_or_else(|error| {
            self.problems.push(format!("cannot read {} of {}: {error}", name, self.bdf));
            None
        })
    }

    fn number<T: FromStr>(&mut self, name: &str, text: &str) -> Option<T> {
        let number = text.parse().ok();
        if number.is_none() {
            self.problems.push(format!("invalid value of {name} of {}: {text:?}", self.bdf));
        }
        number
    }

    fn parsed<T: FromStr>(&mut self, name: &str) -> Option<T> {
        let text = self.text(name)?;
        self.number(name, &text)
    }

    /// A number with the notation `0x10de`.
    fn hex<T: TryFrom<u32>>(&mut self, name: &str) -> Option<T> {
        let number = |text: &str| {
            let digits = text.strip_prefix("0x").filter(|digits| !digits.starts_with('+'));
            let number = digits.and_then(|digits| u32::from_str_radix(digits, 16).ok());
            number.and_then(|number| number.try_into().ok()).ok_or_else(|| text.to_owned())
        };
        let result = self.folder.text(name, number);
        match self.known(name, result)? {
            Ok(number) => Some(number),
            Err(text) => {
                self.problems.push(format!("invalid value of {name} of {}: {text:?}", self.bdf));
                None
            }
        }
    }
}

/// Converts a serial number from the kernel's notation, `52-54-00-ff-ff-a7-b9-ff`, to sixteen digits.
fn serial(text: &str) -> Option<String> {
    let digits: String = text.chars().filter(char::is_ascii_hexdigit).collect();
    (digits.len() == 16).then(|| digits.to_ascii_lowercase())
}
