//! What the user asks `attach` for.

use common::{Code, Error, Result};

use crate::attach::target::Bus;
use crate::availability::guests::Guest;

/// A request to attach disks to a domain.
#[derive(Debug)]
pub struct AttachRequest {
    /// The domain.
    pub domain: String,
    /// The serial number that the guest sees; none for the disk's own.
    pub serial: Option<String>,
    /// The guest target; none for the next free one.
    pub target: Option<String>,
    /// How the guest reaches the disk.
    pub bus: Bus,
    /// Whether the guest may only read.
    pub readonly: bool,
    /// Whether the disk also goes into the persistent definition.
    pub persistent: bool,
    /// The codes that the disk is attached in spite of.
    pub force: Vec<Code>,
    /// Whether nothing is changed.
    pub dry_run: bool,
}

/// The definitions of a domain that a disk goes into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Affected {
    /// Whether the running guest gets the disk.
    pub live: bool,
    /// Whether the persistent definition gets the disk.
    pub config: bool,
}

impl AttachRequest {
    /// The definitions of a domain that the disk is to go into.
    ///
    /// Errors: `conflict` for a domain that does not run, or has no persistent definition.
    pub fn affected(&self, guest: &Guest) -> Result<Affected> {
        let name = &guest.name;
        let affected = Affected { live: guest.live.is_some(), config: self.persistent };
        if affected.config && guest.config.is_none() {
            let message = format!("domain '{name}' has no definition that stays");
            return Err(Error::conflict(message)
                .hint("without --persistent it gets the disk for as long as it runs"));
        }
        if !affected.live && !affected.config {
            let message = format!("domain '{name}' is not running");
            return Err(Error::conflict(message)
                .hint(format!("tdx-td start {name}; or --persistent, for its next start")));
        }
        Ok(affected)
    }
}
