//! The protection of guests from their host, and the attestation of AMD SEV launches.

pub mod attestation;
pub mod launch;
