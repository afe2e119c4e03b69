//! Quotes of trust domains: what a quote states, and whether it is complete. Nothing here verifies a signature.
//!
//! Source: Intel DCAP, `sgx_quote_4.h` and `sgx_quote_5.h`: a header of 48 bytes; in version 5 the type and the size of
//! the body; the body, which is the report of the trust domain; the size of the signature data; the signature data.
//! Numbers are little-endian.

mod report;
mod report_data;
#[cfg(test)]
#[allow(dead_code, reason = "a crate uses a part of it")]
#[path = "../../../tests/support/quote.rs"]
mod sample;
mod signature_data;

pub use report::TdReport;
pub use report_data::ReportData;

/// The most that is read of a quote. Unit: bytes.
///
/// A quote has about 5 kB, most of it certificates. The kernel of a guest reads at most 128 KiB. Source: Linux
/// `drivers/virt/coco/tdx-guest/tdx-guest.c`, `GET_QUOTE_BUF_SIZE`.
pub const LIMIT: usize = 256 << 10;
