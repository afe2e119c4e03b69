//! The document item of a definition.

use std::path::PathBuf;

use common::libvirt::State;

use crate::domain::definition::disks::disk;
use crate::domain::definition::forwards::SshForward;
use crate::domain::definition::host_devices::hostdev_address;
use crate::domain::definition::launch_security::security;
use crate::domain::definition::parsed::{Definition, memory_bytes};
use crate::domain::item::DomainItem;

impl Definition {
    /// Returns the item of the domain, without addresses and other values that the definition does not have.
    pub fn item(&self, id: Option<u32>, state: State, autostart: bool) -> DomainItem {
        let root = self.root();
        let text = |path: &PathBuf| path.display().to_string();
        let overlay = self.overlay();
        DomainItem {
            name: self.name(),
            uuid: self.uuid(),
            id,
            state,
            security: security(root),
            managed: self.is_managed(),
            vcpus: self.vcpus(),
            memory_bytes: root.child("memory").and_then(memory_bytes),
            ip: None,
            ips: Vec::new(),
            other_addresses: Vec::new(),
            ssh: match self.ssh_forward() {
                SshForward::To(ssh) => Some(ssh),
                SshForward::None | SshForward::Ephemeral => None,
            },
            vsock_cid: root
                .attr_at("devices/vsock/cid", "address")
                .and_then(|cid| cid.parse().ok())
                .filter(|_| id.is_some()),
            base: overlay.as_ref().and_then(|(_, base)| base.as_ref()).map(text),
            overlay: overlay.as_ref().map(|(overlay, _)| text(overlay)),
            pool: self.metadata.as_ref().and_then(|metadata| metadata.pool.clone()),
            firmware: self.loader().as_ref().map(text),
            hostdevs: root
                .find_all("devices/hostdev")
                .filter_map(|node| hostdev_address(node).ok().flatten())
                .collect(),
            disks: root.find_all("devices/disk").map(disk).collect(),
            autostart,
            attested: None,
            xml: None,
        }
    }
}
