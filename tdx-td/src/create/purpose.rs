//! Why a definition is built.

/// Why a definition is built: to make the domain, or to compare it with one that has its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// The domain is to be made: the host is checked, and a port is reserved.
    Create,
    /// The domain exists and needs nothing more of the host.
    Compare,
}

impl Purpose {
    /// Whether the domain is to be made.
    pub fn is_create(self) -> bool {
        self == Self::Create
    }
}
