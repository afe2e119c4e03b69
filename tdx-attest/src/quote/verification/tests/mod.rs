//! Quotes and collateral that these tests forge under a root certificate of their own.

mod forge;
mod forged;
