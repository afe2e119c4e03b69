//! The kinds of guests that a host is checked for.

use clap::ValueEnum;

/// A kind of guest that a host is checked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum GuestKind {
    /// Intel TDX trust domains
    Tdx,
    /// AMD SEV guests
    Sev,
    /// AMD SEV-ES guests
    SevEs,
    /// AMD SEV-SNP guests
    SevSnp,
    /// Guests with host devices
    Vfio,
    /// Ordinary guests
    None,
}

impl GuestKind {
    /// Returns the name of the kind, as on the command line.
    pub fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }

    /// Whether such guests are protected from the host.
    pub(super) fn is_secure(self) -> bool {
        !matches!(self, Self::Vfio | Self::None)
    }
}
