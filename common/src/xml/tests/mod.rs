//! The pieces together: on a domain as libvirt prints it, and on documents made at random.

mod domain;
mod edits;
mod properties;

use super::*;

/// A TDX guest with everything that is easily lost: comments, foreign metadata, the QEMU
/// namespace, CDATA, both kinds of quotes.
const DOMAIN: &str = include_str!("domain.xml");
