//! What a built-in definition is made from.

use crate::create::identity::DomainIdentity;
use crate::create::settings::Settings;
use crate::scenario::profile::Guest as Profile;

/// Everything that goes into a new domain.
#[derive(Debug, Clone, Copy)]
pub struct GuestDefinition<'a> {
    /// What it is to have.
    pub settings: &'a Settings,
    /// What makes it this one.
    pub identity: &'a DomainIdentity<'a>,
}

impl GuestDefinition<'_> {
    pub(super) fn profile(&self) -> &Profile {
        &self.settings.resolved.profile.guest
    }
}
