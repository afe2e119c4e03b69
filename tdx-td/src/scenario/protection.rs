//! How the guests of a scenario are protected on this host.

use common::cli::Context;
use common::libvirt::Libvirt;
use common::{Error, Result};

use crate::capability;
use crate::capability::Security;
use crate::scenario::library::Scenario;

/// How a scenario's guests are protected: as was asked for, else the best that the host has.
///
/// Errors: `unsupported` when it has none of what the scenario wants, with what each lacks.
pub fn supported_security(
    context: &Context,
    libvirt: &Libvirt,
    scenario: &Scenario,
    asked: Option<Security>,
) -> Result<Security> {
    if let Some(security) = asked {
        return Ok(security);
    }
    let mut missing = Vec::new();
    for security in &scenario.security {
        match capability::check_security(&context.host, libvirt, *security) {
            Ok(()) => return Ok(*security),
            Err(error) => missing.push(error.message().to_owned()),
        }
    }
    let name = &scenario.name;
    Err(Error::unsupported(format!("this host protects no guest as scenario '{name}' wants it"))
        .because(missing.join("; "))
        .hint("--security none makes a guest that is open to this host"))
}
