//! The filter options of `scan`.

use clap::Args;

use crate::inventory::device::Device;
use crate::inventory::id_syntax::{ClassPrefix, parse_id, parse_id_pair};

/// The filter options. A device passes if it passes every given option. An option that is given several times passes if
/// one of its values matches.
#[derive(Debug, Args)]
pub(crate) struct Filter {
    /// Only devices of this class: its first two, four or six digits, such as 03, 0302 or 030200 (repeatable)
    #[arg(long, value_name = "CLASS")]
    class: Vec<ClassPrefix>,
    /// Only devices with this vendor id, such as 10de (repeatable)
    #[arg(long, value_name = "ID", value_parser = parse_id)]
    vendor: Vec<u16>,
    /// Only devices with this device id, such as 2330 (repeatable)
    #[arg(long, value_name = "ID", value_parser = parse_id)]
    device: Vec<u16>,
    /// Only devices with this vendor and device id, such as 10de:2330 (repeatable)
    #[arg(long, value_name = "V:D", value_parser = parse_id_pair)]
    id: Vec<(u16, u16)>,
    /// Only devices that are bound to this driver; "none" for devices without a driver (repeatable)
    #[arg(long, value_name = "NAME")]
    driver: Vec<String>,
    /// Only devices of the IOMMU group with this number (repeatable)
    #[arg(long, value_name = "N")]
    group: Vec<u32>,
    /// Only devices that are bound to a driver of the host
    #[arg(long, conflicts_with = "free")]
    in_use: bool,
    /// Only devices without a driver, or bound to a VFIO driver
    #[arg(long)]
    free: bool,
}

impl Filter {
    /// Whether a device passes all filters.
    pub(crate) fn lets_through(&self, device: &Device) -> bool {
        let driver = device.driver.as_deref().unwrap_or("none");
        any(&self.class, |class| device.class.is_some_and(|c| class.matches(c)))
            && any(&self.vendor, |vendor| device.vendor == Some(*vendor))
            && any(&self.device, |id| device.device == Some(*id))
            && any(&self.id, |(v, d)| (device.vendor, device.device) == (Some(*v), Some(*d)))
            && any(&self.driver, |name| name == driver)
            && any(&self.group, |group| device.group == Some(*group))
            && (!self.in_use || device.in_use())
            && (!self.free || !device.in_use())
    }
}

fn any<T>(wanted: &[T], holds: impl Fn(&T) -> bool) -> bool {
    wanted.is_empty() || wanted.iter().any(holds)
}
