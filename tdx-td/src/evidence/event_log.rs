//! Reading the event log of a guest's firmware (CCEL).
//!
//! Source: Linux `drivers/acpi/sysfs.c`, whose directory `data` has the memory that the ACPI table CCEL names.

use common::{Error, Result};

use crate::domain::guest_exec::{GuestAgent, MOST_OUTPUT};

/// The most bytes of an event log. OVMF reserves 64 kB for it.
pub const LIMIT: usize = 8 << 20;

/// The script that prints at most [`MOST_OUTPUT`] bytes of the event log of the guest.
const SCRIPT: &str = include_str!("get-event-log.sh");

/// Reads the event log; `None` if the guest has none.
///
/// Errors: `failed` for a log that is larger than [`LIMIT`] or cannot be read; those of the agent.
pub fn read(agent: &GuestAgent<'_>, name: &str) -> Result<Option<Vec<u8>>> {
    let mut log = Vec::new();
    loop {
        let exit = agent.shell(SCRIPT, &(log.len() + 1).to_string(), b"")?;
        match exit.status {
            Some(0) => {}
            Some(10) if log.is_empty() => return Ok(None),
            _ => {
                let message = format!("the guest of domain '{name}' cannot read its event log");
                return Err(Error::failed(message).because(exit.stderr));
            }
        }
        log.extend_from_slice(&exit.stdout);
        if log.len() > LIMIT {
            return Err(Error::failed(format!(
                "the event log of domain '{name}' has more than {LIMIT} bytes"
            )));
        }
        if exit.stdout.len() < MOST_OUTPUT {
            return Ok(Some(log).filter(|log| !log.is_empty()));
        }
    }
}
