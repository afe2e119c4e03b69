//! Quotes of trust domains: [`verification`] verifies them. What a quote states is read by [`common::td_quote`].

#[cfg(test)]
#[allow(dead_code, reason = "a crate uses a part of it")]
#[path = "../../../tests/support/quote.rs"]
pub(crate) mod sample;
pub mod verification;
