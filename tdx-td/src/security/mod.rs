//! How a guest is protected from its host, and how an AMD SEV launch is attested.

pub mod attestation;
pub mod launch;
