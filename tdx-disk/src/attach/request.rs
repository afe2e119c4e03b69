//! The options of `attach`.

use common::{Code, Error, Result};

use crate::attach::target::Bus;
use crate::availability::guests::Guest;

/// A request to attach disks to a domain.
#[derive(Debug)]
pub struct AttachRequest {
    /// The name of the domain.
    pub domain: String,
    /// The serial number that the guest sees; none for the disk's own number.
    pub serial: Option<String>,
    /// The guest target; none for the next free one.
    pub target: Option<String>,
    /// The bus of the guest disk.
    pub bus: Bus,
    /// Whether the guest disk is read-only.
    pub readonly: bool,
    /// Whether to add the disk to the persistent definition as well.
    pub persistent: bool,
    /// The codes of the blockers to ignore.
    pub force: Vec<Code>,
    /// Whether this is a dry run.
    pub dry_run: bool,
}

/// The definitions of a domain that get a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Affected {
    /// Whether the running guest gets the disk.
    pub live: bool,
    /// Whether the persistent definition gets the disk.
    pub config: bool,
}

impl AttachRequest {
    /// The definitions of a domain to add the disk to.
    ///
    /// Errors: `conflict` for a domain that is not running, or that has no persistent definition.
    pub fn affected(&self, guest: &Guest) -> Result<Affected> {
        let name = &guest.name;
        let affected = Affected { live: guest.live.is_some(), config: self.persistent };
        if affected.config && guest.config.is_none() {
            let message = format!("domain '{name}' is transient: it has no persistent definition");
            return Err(Error::conflict(message)
                .hint("to attach the disk only while the domain runs, remove --persistent"));
        }
        if !affected.live && !affected.config {
            let message = format!("domain '{name}' is not running");
            return Err(Error::conflict(message)
                .hint(format!(
                    "start the domain with tdx-td start {name}, or add --persistent to attach the disk at its next start"
                )));
        }
        Ok(affected)
    }
}
