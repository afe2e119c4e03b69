//! The launch security of a definition.

use common::units::hex_u64;
use common::xml::Node;

use crate::capability::Security;
use crate::domain::definition::parsed::Definition;

impl Definition {
    /// Returns the protection of the domain.
    pub fn launch_security_name(&self) -> Security {
        security(self.root()).parse().unwrap_or(Security::None)
    }

    /// Returns the text of an element of `<launchSecurity>`, such as `session`.
    pub fn launch_text(&self, name: &str) -> Option<String> {
        self.root().text_at(&format!("launchSecurity/{name}")).filter(|text| !text.is_empty())
    }

    /// Returns the policy of the launch security.
    pub fn policy(&self) -> Option<u64> {
        hex_u64(&self.launch_text("policy")?)
    }
}

/// Returns the kind of launch security, as on the command line; `none` without one.
pub fn security(domain: Node<'_>) -> String {
    let Some(node) = domain.child("launchSecurity") else {
        return "none".to_owned();
    };
    let kind = node.attr("type").unwrap_or_default();
    // libvirt distinguishes SEV-ES from SEV by bit 2 of the policy.
    // Source: https://libvirt.org/formatdomain.html#launch-security
    let policy = node.text_at("policy").unwrap_or_default();
    let policy = hex_u64(&policy).unwrap_or(0);
    match kind.as_ref() {
        "sev" if policy & 4 != 0 => "sev-es".to_owned(),
        kind => kind.to_owned(),
    }
}
