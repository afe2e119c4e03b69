//! What makes a new domain this one: its name, its UUID, its disk, and what it is known again by.

use std::net::SocketAddr;
use std::path::Path;

use common::{Result, text};
use tdx_pool::volume::names::random_bytes;

use crate::create::disk::Disk;
use crate::domain::metadata::Metadata;
use crate::passthrough::Devices;

/// What distinguishes a domain from others whose definitions are made from the same source.
#[derive(Debug, Clone, Copy)]
pub struct DomainIdentity<'a> {
    /// Name.
    pub name: &'a str,
    /// UUID.
    pub uuid: &'a str,
    /// Its disk.
    pub disk: &'a Disk,
    /// Whether libvirt may be told to leave the base image's owner alone.
    pub keep_base_owner: bool,
    /// A CD in its drive.
    pub cdrom: Option<&'a Path>,
    /// A cloud-init seed.
    pub seed: Option<&'a Path>,
    /// Devices of the host.
    pub devices: &'a Devices,
    /// The host's address and port that lead to the guest's ssh.
    pub ssh: Option<SocketAddr>,
    /// Our record.
    pub metadata: &'a Metadata,
}

/// The name the original script would have chosen: users' scripts match on it.
pub fn default_name(stem: &str, uuid: &str) -> String {
    format!("tdvirsh-{stem}-{uuid}")
}

/// A random UUID. Source: RFC 9562, section 5.4 (version 4).
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
    fn uuids_are_random_and_of_version_4() {
        let uuid = new_uuid().unwrap();
        assert_eq!((uuid.len(), &uuid[14..15]), (36, "4"));
        assert!("89ab".contains(&uuid[19..20]), "{uuid}");
        assert_ne!(uuid, new_uuid().unwrap());
    }
}
