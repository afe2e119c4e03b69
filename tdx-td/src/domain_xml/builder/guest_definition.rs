//! The input of a built-in definition.

use crate::create::identity::DomainIdentity;
use crate::create::settings::Settings;
use crate::scenario::profile::Guest as Profile;

/// The input of a built-in definition: settings and identity of a domain.
#[derive(Debug, Clone, Copy)]
pub struct GuestDefinition<'a> {
    /// The settings of the guest.
    pub settings: &'a Settings,
    /// The identity of the domain.
    pub identity: &'a DomainIdentity<'a>,
}

impl GuestDefinition<'_> {
    pub(super) fn profile(&self) -> &Profile {
        &self.settings.resolved.profile.guest
    }
}
