//! The protection of a scenario's guests on this host.

use common::cli::Context;
use common::libvirt::Libvirt;
use common::{Error, Result};

use crate::capability;
use crate::capability::Security;
use crate::scenario::library::Scenario;

/// Returns the protection of a guest: the requested one, else the best that the scenario allows and the host
/// supports.
///
/// Errors: `unsupported` if the host supports none of them, with the reasons.
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
    Err(Error::unsupported(format!(
        "this host supports none of the protections that scenario '{name}' allows"
    ))
    .because(missing.join("; "))
    .hint(
        "to see the fixes, run tdx-td host check; to create an unprotected guest, add --security none",
    ))
}
