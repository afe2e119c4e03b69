//! Why a guest is planned.

/// Why a guest is planned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// To create it: everything that creating it needs is checked.
    Create,
    /// To compare it with the domain that has its name: nothing more of the host is needed.
    Compare,
}
