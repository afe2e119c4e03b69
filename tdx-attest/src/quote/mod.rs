//! Quotes of trust domains. [`body`] reads what a quote states and verifies nothing; [`verification`] verifies quotes.

pub mod body;
pub mod verification;
