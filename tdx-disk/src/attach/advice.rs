//! Advice on how to keep the host from using a disk while a guest has the disk. These tools install nothing themselves.

use crate::block::disk::Disk;

/// Warnings that contain a udev rule and a line for lvm.conf.
///
/// Without these rules, the host may activate a volume group, an array or a file system that the guest creates on the
/// disk. Source: systemd `udev.conf`, udisks(8), lvm.conf(5), LVM2 `udev/10-dm.rules`.
pub fn warnings(disk: &Disk, source: &str) -> Vec<String> {
    let key = match (&disk.udev_serial, &disk.serial) {
        (Some(serial), _) => format!("ENV{{ID_SERIAL}}==\"{}\"", escaped(serial)),
        (None, Some(serial)) => format!("ATTRS{{serial}}==\"{}\"", escaped(serial)),
        (None, None) => format!("KERNEL==\"{}\"", disk.name),
    };
    let node = disk.node();
    let rule = format!(
        "to keep the host from using {node}, add this line to /etc/udev/rules.d/99-tdx-disk.rules: \
         SUBSYSTEM==\"block\", {key}, ENV{{UDISKS_IGNORE}}=\"1\", ENV{{SYSTEMD_READY}}=\"0\", \
         ENV{{DM_UDEV_DISABLE_DISK_RULES_FLAG}}=\"1\", ENV{{DM_UDEV_DISABLE_OTHER_RULES_FLAG}}=\"1\""
    );
    let mut rejected = vec![source];
    rejected.extend((source != node).then_some(node.as_str()));
    let rejected: Vec<String> = rejected.iter().map(|path| format!("\"r|^{path}|\"")).collect();
    let filter = format!(
        "to keep LVM on the host from activating volume groups of the guest on {node}, add to \
         global_filter in /etc/lvm/lvm.conf: [ {} ]",
        rejected.join(", ")
    );
    vec![rule, filter]
}

/// The text as a value in a rule. Pattern characters of udev become `?`, which matches any one character.
fn escaped(text: &str) -> String {
    text.chars().map(|c| if "*?[]|\"\\".contains(c) { '?' } else { c }).collect()
}
