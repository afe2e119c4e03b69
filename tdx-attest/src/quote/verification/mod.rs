//! Verifies quotes with the crate dcap-qvl, which no module outside this directory uses.
//!
//! dcap-qvl has the last word: no quote is accepted that it refuses. But it stops at the first fault and describes the
//! fault only in words. Therefore [`verifier`] makes each check before it by itself, with the same cryptography, so that
//! each check has a result of its own.

pub mod collateral;
pub mod failure;
pub mod pck;
pub mod tcb;
pub mod verifier;

mod chain;
mod qe_identity;
#[cfg(test)]
mod tests;

pub use dcap_qvl::TcbStatus;
