//! Finds the devices that the host exports: as iSCSI and NVMe targets, and through loop devices.

use common::Code;
use common::system::sysfs::{attribute, names};
use common::system::sysroot::Host;

use crate::availability::finding::Finding;
use crate::block::devices::{BlockDevice, BlockDevices};

const TARGETS: &str = "/sys/kernel/config/target/core";
const NVME: &str = "/sys/kernel/config/nvmet/subsystems";

/// Findings about each device of the stack that is exported.
///
/// Source: Linux `drivers/target/target_core_configfs.c` (`udev_path`, and the iblock back end's own
/// path), `drivers/nvme/target/configfs.c` (`device_path`), `Documentation/ABI/testing/sysfs-block-loop`.
pub fn findings(host: &Host, blocks: &BlockDevices, stack: &[&BlockDevice]) -> Vec<Finding> {
    let mut exports: Vec<(String, String)> = Vec::new();
    for adapter in names(host, TARGETS) {
        for name in names(host, &format!("{TARGETS}/{adapter}")) {
            let path = attribute(host, &format!("{TARGETS}/{adapter}/{name}/udev_path"));
            exports.extend(path.map(|path| (path, format!("the iSCSI target object {name}"))));
        }
    }
    for name in names(host, NVME) {
        let folder = format!("{NVME}/{name}/namespaces");
        for number in names(host, &folder) {
            let path = attribute(host, &format!("{folder}/{number}/device_path"));
            exports.extend(path.map(|path| (path, format!("the NVMe target {name}"))));
        }
    }
    for block in blocks.all() {
        let path = block.backing.clone();
        exports.extend(path.map(|path| (path, format!("the loop device {}", block.node()))));
    }
    let finding = |(path, by): (String, String)| {
        let exported = blocks.at_path(host, &path)?;
        let is_on_disk = stack.iter().any(|block| block.number == exported.number);
        let finding = Finding::new(Code::Exported, format!("{} is used by {by}", exported.node()));
        let detach = by.strip_prefix("the loop device ");
        is_on_disk.then(|| match detach {
            Some(node) => finding.remedy(format!("losetup -d {node}")),
            None => finding,
        })
    };
    exports.into_iter().filter_map(finding).collect()
}
