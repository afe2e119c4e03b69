//! The purpose of a definition that is built.

/// The purpose of a definition: to create the domain, or to compare it with an existing domain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// The domain is to be created: the host is checked, and a port is reserved.
    Create,
    /// The domain exists: the host is not checked.
    Compare,
}

impl Purpose {
    /// Whether the domain is to be created.
    pub fn is_create(self) -> bool {
        self == Self::Create
    }
}
