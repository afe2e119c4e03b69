//! The filters of `scan`.

use clap::Args;

use crate::inventory::device::Device;
use crate::inventory::id_syntax::{ClassPrefix, parse_id, parse_id_pair};

/// Which devices. Different filters must all hold; of one that is given several times, any.
#[derive(Debug, Args)]
pub(crate) struct Filter {
    /// Class, from its first two digits on: 03, 0302 or 030200
    #[arg(long, value_name = "CLASS")]
    class: Vec<ClassPrefix>,
    /// Vendor id: 10de
    #[arg(long, value_name = "ID", value_parser = parse_id)]
    vendor: Vec<u16>,
    /// Device id: 2330
    #[arg(long, value_name = "ID", value_parser = parse_id)]
    device: Vec<u16>,
    /// Vendor and device id: 10de:2330
    #[arg(long, value_name = "V:D", value_parser = parse_id_pair)]
    id: Vec<(u16, u16)>,
    /// The driver that is bound; none for devices without one
    #[arg(long, value_name = "NAME")]
    driver: Vec<String>,
    /// Number of the IOMMU group
    #[arg(long, value_name = "N")]
    group: Vec<u32>,
    /// Only devices that a driver of the host has
    #[arg(long, conflicts_with = "free")]
    in_use: bool,
    /// Only devices that no driver has, or one of VFIO's
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
