//! Quotes of trust domains. [`body`] reads what a quote states; it verifies nothing.

pub mod body;
