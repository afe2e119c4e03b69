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
    /// Its address.
    pub bdf: Bdf,
    /// Where it sits.
    pub path: Option<HopPath>,
    /// The bridges above it, the one nearest to the root first.
    pub upstream: Vec<Bdf>,
    /// Vendor id.
    pub vendor: Option<u16>,
    /// Device id.
    pub device: Option<u16>,
    /// Vendor id of the card.
    pub subsystem_vendor: Option<u16>,
    /// Device id of the card.
    pub subsystem_device: Option<u16>,
    /// Class code.
    pub class: Option<Class>,
    /// Revision.
    pub revision: Option<u8>,
    /// Device serial number, sixteen hexadecimal digits. Only root can see it, and a device in D3cold
    /// does not show it.
    pub serial: Option<String>,
    /// Whether it sleeps in D3cold, so that its configuration space was not read.
    pub asleep: bool,
    /// The driver that is bound.
    pub driver: Option<String>,
    /// The only driver that may be bound.
    pub driver_override: Option<String>,
    /// Number of its IOMMU group; another one after a reboot.
    pub group: Option<u32>,
    /// The NUMA node it is near to.
    pub numa_node: Option<u32>,
    /// Whether the firmware's console is on it.
    pub boot_vga: bool,
    /// Whether its header is not that of an endpoint.
    pub is_bridge: bool,
    /// How it can be reset, in the kernel's words and order.
    pub reset_methods: Vec<String>,
    /// Whether it can be reset; kernels before 5.15 do not say how.
    pub can_reset: bool,
    /// How many virtual functions it can have.
    pub total_vfs: u32,
    /// How many virtual functions it has.
    pub num_vfs: u32,
    /// The physical function, of a virtual one.
    pub physfn: Option<Bdf>,
    /// What it is for.
    pub role: Role,
}

/// Reads the attributes of one device and remembers what could not be read.
struct Reader<'a> {
    bdf: Bdf,
    folder: AttributeDirectory,
    problems: &'a mut Vec<String>,
}

impl Device {
    /// Reads the device at `bdf` below `devices`, which is `/sys/bus/pci/devices`.
    ///
    /// None when it went away. What cannot be read or understood is unknown, and said in `problems`.
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
            // Gone meanwhile, and with it what there was to complain of.
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

    /// Reads what a device in D3cold does not show: its serial number and kind of header. To read the
    /// configuration space makes the kernel wake the device, and let it sleep again. What a device that
    /// does not wake would show stays unknown.
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

    /// What tells the device from another one that is later found at its address.
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

    /// Whether a VFIO driver has it: vfio-pci, or one of its variants for a kind of device.
    pub fn on_vfio(&self) -> bool {
        // All of them have it in their names: mlx5_vfio_pci, nvgrace_gpu_vfio_pci, …
        self.driver.as_deref().is_some_and(|driver| driver.contains("vfio"))
    }

    /// Whether a driver of the host has it: any but VFIO's, and `pci-stub`, which does nothing.
    pub fn in_use(&self) -> bool {
        self.driver.as_deref().is_some_and(|driver| driver != "pci-stub") && !self.on_vfio()
    }

    /// Whether its driver keeps a guest from having another device of the group.
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
        // -1 stands for none.
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

    /// What the configuration space tells, or what comes closest.
    fn look_inside(&mut self, device: &mut Device) {
        device.serial = match self.folder.text("serial_number", serial) {
            Ok(serial) => serial.flatten(),
            Err(_) => None, // not for ordinary users
        };
        // Not worth waking a device for that saves power.
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
            self.problems.push(format!("cannot understand {name} of {}: {text:?}", self.bdf));
        }
        number
    }

    fn parsed<T: FromStr>(&mut self, name: &str) -> Option<T> {
        let text = self.text(name)?;
        self.number(name, &text)
    }

    /// A number written as `0x10de`.
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
                self.problems.push(format!("cannot understand {name} of {}: {text:?}", self.bdf));
                None
            }
        }
    }
}

/// A serial number as the kernel writes it, `52-54-00-ff-ff-a7-b9-ff`, in the form of the rest.
fn serial(text: &str) -> Option<String> {
    let digits: String = text.chars().filter(char::is_ascii_hexdigit).collect();
    (digits.len() == 16).then(|| digits.to_ascii_lowercase())
}
