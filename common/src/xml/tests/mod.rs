//! Tests of the modules together: on a domain as libvirt prints it, and on random documents.

mod domain;
mod edits;
mod properties;

use super::*;

/// A TDX guest with everything that an edit could lose: comments, foreign metadata, the QEMU namespace,
/// CDATA, both kinds of quotes.
const DOMAIN: &str = include_str!("domain.xml");
