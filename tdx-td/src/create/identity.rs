//! The identity of a new domain: its name, UUID, disk, devices and record.

use std::net::SocketAddr;
use std::path::Path;

use common::{Result, text};
use tdx_pool::volume::names::random_bytes;

use crate::create::disk::Disk;
use crate::domain::metadata::Metadata;
use crate::passthrough::Devices;

/// The parts of a definition in which domains from the same source differ.
#[derive(Debug, Clone, Copy)]
pub struct DomainIdentity<'a> {
    /// Name of the domain.
    pub name: &'a str,
    /// UUID of the domain.
    pub uuid: &'a str,
    /// Disk of the domain.
    pub disk: &'a Disk,
    /// Whether the definition tells libvirt not to change the owner of the base image.
    pub keep_base_owner: bool,
    /// CD image in the domain's drive.
    pub cdrom: Option<&'a Path>,
    /// Path of the cloud-init seed.
    pub seed: Option<&'a Path>,
    /// Host devices of the domain.
    pub devices: &'a Devices,
    /// Address and port of the host that are forwarded to the guest's SSH server.
    pub ssh: Option<SocketAddr>,
    /// The record of these tools in the domain's `<metadata>`.
    pub metadata: &'a Metadata,
}

/// Returns the default name of a domain. The original script chose the same names, and users' scripts match
/// them.
pub fn default_name(stem: &str, uuid: &str) -> String {
    format!("tdvirsh-{stem}-{uuid}")
}

/// Returns a random UUID. Source: RFC 9562, section 5.4 (version 4).
pub fn new_uuid() -> Result<String> {
    let mut bytes: [u8; 16] = random_bytes()?;
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let hex = text::hex(bytes);
    Ok([&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn new_uuid_returns_random_uuids_of_version_4() {
        let uuid = new_uuid().unwrap();
        assert_eq!((uuid.len(), &uuid[14..15]), (36, "4"));
        assert!("89ab".contains(&uuid[19..20]), "{uuid}");
        assert_ne!(uuid, new_uuid().unwrap());
    }
}
