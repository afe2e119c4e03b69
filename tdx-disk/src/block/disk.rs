//! Reads the properties of a disk (size, model, names, geometry) from sysfs and udev's database.

use common::system::sysfs::attribute;
use common::system::sysroot::Host;

use crate::block::devices::{BlockDevice, BlockDevices};
use crate::block::udev::UdevRecord;
use common::system::devt::DevT;

/// The properties of a disk or of another block device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disk {
    /// The kernel name.
    pub name: String,
    /// The device number.
    pub number: DevT,
    /// The type: `disk`, `partition`, `loop`, `nbd`, `md`, `mpath`, `lvm`, `crypt`, `dm`, `rom`, `floppy`,
    /// `firmware` (of an eMMC), `zram`, `ram`, or `virtual` for another virtual device.
    pub kind: &'static str,
    /// The size in bytes.
    pub size: u64,
    /// Vendor and model.
    pub model: Option<String>,
    /// The serial number.
    pub serial: Option<String>,
    /// The world-wide name.
    pub wwn: Option<String>,
    /// The transport: `sata`, `nvme`, `usb`, `mmc`, `virtio`, `sas`, `iscsi`, `fc`, `scsi`.
    pub transport: Option<&'static str>,
    /// Whether the disk is rotational.
    pub rotational: Option<bool>,
    /// The logical sector size in bytes.
    pub logical_sector: u32,
    /// The physical sector size in bytes.
    pub physical_sector: u32,
    /// Whether the disk is read-only.
    pub read_only: bool,
    /// Whether the disk or its medium is removable.
    pub removable: bool,
    /// The disk sequence number, which increases whenever another disk or medium gets the name.
    pub sequence: Option<u64>,
    /// The state that the driver reports.
    pub state: Option<String>,
    /// The links to the disk below `/dev/disk`, the preferred one first.
    pub links: Vec<String>,
    /// udev's serial number (`ID_SERIAL`), which udev rules can match.
    pub udev_serial: Option<String>,
    /// Whether multipathd has claimed the disk as a path, even without a multipath map.
    pub is_path: bool,
    /// The unique id of a partition.
    pub part_uuid: Option<String>,
}

impl Disk {
    /// Reads the properties of a block device.
    ///
    /// Source: Linux `Documentation/ABI/stable/sysfs-block`; the attributes of its drivers nvme, sd,
    /// virtio_blk and mmc_block.
    pub fn read(host: &Host, blocks: &BlockDevices, block: &BlockDevice) -> Self {
        let udev = UdevRecord::read(host, block.number);
        let text = |name: &str| block.attribute(host, name).filter(|text| !text.is_empty());
        // The queue of a partition is that of its disk.
        let whole = block.parent.as_deref().and_then(|name| blocks.named(name)).unwrap_or(block);
        let queue = |name: &str| whole.attribute(host, &format!("queue/{name}"));
        let sector = |name: &str| queue(name).and_then(|text| text.parse().ok()).unwrap_or(512);
        let owned = |text: Option<&str>| text.map(str::to_owned);
        let serial = text("device/serial").or_else(|| text("serial"));
        let serial = serial.or_else(|| owned(udev.property("ID_SERIAL_SHORT")));
        let serial = serial.or_else(|| owned(udev.property("ID_SCSI_SERIAL")));
        let wwn = text("wwid").or_else(|| text("device/wwid"));
        let part_uuid = owned(udev.property("ID_PART_ENTRY_UUID"));
        let is_partition = block.parent.is_some();
        let mut disk = Self {
            name: block.name.clone(),
            number: block.number,
            kind: kind(host, block),
            size: text("size").and_then(|text| text.parse::<u64>().ok()).unwrap_or(0) * 512,
            model: text("device/model").or_else(|| text("device/name")).map(one_line),
            serial: serial.map(one_line).filter(|serial| !serial.is_empty()),
            wwn: wwn.or_else(|| owned(udev.property("ID_WWN"))).map(one_line),
            transport: transport(block, &udev),
            rotational: queue("rotational").map(|text| text == "1"),
            logical_sector: sector("logical_block_size"),
            physical_sector: sector("physical_block_size"),
            read_only: text("ro").as_deref() == Some("1"),
            removable: text("removable").as_deref() == Some("1"),
            sequence: whole.attribute(host, "diskseq").and_then(|text| text.parse().ok()),
            state: text("device/state"),
            links: Vec::new(),
            udev_serial: owned(udev.property("ID_SERIAL")),
            is_path: udev.property("DM_MULTIPATH_DEVICE_PATH") == Some("1"),
            part_uuid: part_uuid.filter(|_| is_partition),
        };
        let leads_here = |link: &String| {
            blocks.at_path(host, link).is_some_and(|block| block.number == disk.number)
        };
        let links = udev.links.iter().map(|link| format!("/dev/{link}"));
        let mut links: Vec<String> =
            links.filter(|link| preference(link).is_some()).filter(leads_here).collect();
        links.sort_by_key(|link| preference(link));
        disk.links = links;
        disk
    }

    /// The path of the device node, as the kernel names it.
    pub fn node(&self) -> String {
        format!("/dev/{}", self.name.replace('!', "/"))
    }

    /// The most permanent name below `/dev/disk/by-id`.
    pub fn by_id(&self) -> Option<&str> {
        self.links.iter().map(String::as_str).find(|link| link.starts_with("/dev/disk/by-id/"))
    }

    /// The name below `/dev/disk/by-path`, which is the name of the disk's slot.
    pub fn by_path(&self) -> Option<&str> {
        self.links.iter().map(String::as_str).find(|link| link.starts_with("/dev/disk/by-path/"))
    }

    /// Whether another disk has the same serial number or world-wide name.
    pub fn is_twin_of(&self, other: &Self) -> bool {
        let same = |a: &Option<String>, b: &Option<String>| a.is_some() && a == b;
        self.number != other.number
            && self.kind == other.kind
            && self.kind != "partition"
            && (same(&self.wwn, &other.wwn)
                || (same(&self.serial, &other.serial) && self.model == other.model))
    }
}

/// The rank of a name, best first; none for names that do not identify a disk.
fn preference(link: &str) -> Option<(u8, String)> {
    const ORDER: [&str; 9] =
        ["wwn-", "nvme-eui.", "nvme-uuid.", "nvme-", "dm-uuid-", "ata-", "scsi-3", "scsi-", ""];
    let rank = match link.strip_prefix("/dev/disk/by-id/") {
        Some(name) => ORDER.iter().position(|prefix| name.starts_with(prefix))?,
        None if link.starts_with("/dev/disk/by-path/") => ORDER.len(),
        None => return None,
    };
    Some((rank as u8, link.to_owned()))
}

/// The text with single spaces and without spaces at its ends, as udev and lsblk show it.
fn one_line(text: String) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn kind(host: &Host, block: &BlockDevice) -> &'static str {
    let is = |prefix: &str| {
        let rest = block.name.strip_prefix(prefix);
        rest.is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
    };
    if block.parent.is_some() {
        return "partition";
    }
    let fixed = [
        ("loop", "loop"),
        ("nbd", "nbd"),
        ("md", "md"),
        ("sr", "rom"),
        ("fd", "floppy"),
        ("zram", "zram"),
        ("ram", "ram"),
    ];
    if let Some((_, kind)) = fixed.into_iter().find(|(prefix, _)| is(prefix)) {
        return kind;
    }
    if is("mmcblk") && block.name.contains("boot") {
        return "firmware";
    }
    if !is("dm-") {
        let made_up = block.sysfs_path.starts_with("/sys/devices/virtual/block");
        return if made_up { "virtual" } else { "disk" };
    }
    let uuid = block.attribute(host, "dm/uuid").unwrap_or_default();
    match uuid.split('-').next() {
        Some("mpath") => "mpath",
        Some("LVM") => "lvm",
        Some("CRYPT") => "crypt",
        _ => "dm",
    }
}

fn transport(block: &BlockDevice, udev: &UdevRecord) -> Option<&'static str> {
    let sysfs_path = block.sysfs_path.to_string_lossy();
    if sysfs_path.starts_with("/sys/devices/virtual/block/") {
        return None;
    }
    let parts = [
        ("/usb", "usb"),
        ("/nvme", "nvme"),
        ("/mmc_host", "mmc"),
        ("/session", "iscsi"),
        ("/rport-", "fc"),
        ("/end_device-", "sas"),
        ("/ata", "sata"),
    ];
    let found = parts.into_iter().find(|(part, _)| sysfs_path.contains(part)).map(|(_, name)| name);
    let found = found.or_else(|| (udev.property("ID_BUS") == Some("ata")).then_some("sata"));
    // A SCSI disk of a virtio controller is below a directory `host`, a virtio_blk disk is not.
    let scsi =
        || (sysfs_path.contains("/host") && sysfs_path.contains("/target")).then_some("scsi");
    let virtio = || sysfs_path.contains("/virtio").then_some("virtio");
    found.or_else(scsi).or_else(virtio)
}

/// The SCSI address of a disk, `host:channel:target:lun`.
pub fn scsi_address(host: &Host, block: &BlockDevice) -> Option<String> {
    let sysfs_path = block.sysfs_path.to_str()?;
    let is_scsi = attribute(host, &format!("{sysfs_path}/device/type")).is_some();
    let address = block.sysfs_path.parent()?.parent()?.file_name()?.to_str()?;
    (is_scsi && address.matches(':').count() == 3).then(|| address.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_permanent_name_comes_first() {
        let mut links = [
            "/dev/disk/by-path/pci-0000:00:1f.2-ata-1",
            "/dev/disk/by-id/ata-X_1",
            "/dev/disk/by-id/usb-X",
            "/dev/disk/by-id/wwn-0x5000",
            "/dev/disk/by-id/nvme-X_1",
            "/dev/disk/by-id/nvme-eui.0025",
        ];
        links.sort_by_key(|link| preference(link));
        let names: Vec<_> = links.iter().map(|link| link.rsplit('/').next().unwrap()).collect();
        assert_eq!(
            names,
            [
                "wwn-0x5000",
                "nvme-eui.0025",
                "nvme-X_1",
                "ata-X_1",
                "usb-X",
                "pci-0000:00:1f.2-ata-1"
            ]
        );
        assert_eq!(preference("/dev/disk/by-uuid/1"), None);
    }
}
