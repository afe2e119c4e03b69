//! Why a definition is built.

/// Why a definition is built: to create the domain, or to compare it with the one that has its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// The domain is to be created: the host is checked, and a port is reserved.
    Create,
    /// The domain exists and needs nothing more of the host.
    Compare,
}

impl Purpose {
    /// Whether the domain is to be created.
    pub fn is_create(self) -> bool {
        self == Self::Create
    }
}
