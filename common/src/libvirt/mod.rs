//! The seam to libvirt: connecting, errors with exit codes, and the calls its Rust binding lacks.
//!
//! Everything else goes through the [`virt`] crate itself, by way of [`Libvirt::connect`].

mod error;
#[expect(unsafe_code, reason = "calls of the C library that its binding lacks, or gets wrong")]
mod raw;

use clap::Args;
use virt::connect::Connect;

pub use error::{Context, is_gone};
pub use raw::{Lease, State};

use crate::config::Config;
use crate::error::Result;
use crate::log;

/// The flag of every tool that talks to libvirt.
#[derive(Debug, Clone, Args)]
pub struct ConnectArgs {
    /// The libvirt connection; LIBVIRT_DEFAULT_URI or libvirt's own default without it
    #[arg(short, long, global = true, value_name = "URI", help_heading = "Global options")]
    pub connect: Option<String>,
}

/// An open connection.
#[derive(Debug)]
pub struct Libvirt {
    connect: Connect,
    uri: String,
}

impl Libvirt {
    /// Connects to the URI of the flag, else of the configuration, else to libvirt's default.
    ///
    /// Errors: `unsupported` (exit 6) when libvirt is not there or out of reach, `permission` (exit 7)
    /// when it is but refuses, `usage` for text that is no URI.
    pub fn open(args: &ConnectArgs, config: &Config) -> Result<Self> {
        virt::error::clear_error_callback();
        let wanted = args.connect.as_deref().or(config.connect.as_deref());
        if wanted.is_some_and(|uri| uri.contains('\0')) {
            return Err(crate::Error::usage("the connection URI holds a NUL byte"));
        }
        let connect =
            Connect::open(wanted).map_err(|cause| error::cannot_connect(wanted, cause))?;
        let uri = connect.uri().context("ask libvirt for its URI")?;
        log::detail(format_args!("connected to {uri}"));
        Ok(Self { connect, uri })
    }

    /// The binding's own connection.
    pub fn connect(&self) -> &Connect {
        &self.connect
    }

    /// The URI that was connected to.
    pub fn uri(&self) -> &str {
        &self.uri
    }

    /// Whether the connection still stands; a daemon that died took it along.
    pub fn is_alive(&self) -> bool {
        self.connect.is_alive().unwrap_or(false)
    }

    /// Whether the daemon runs on this machine, so that its paths are ours.
    pub fn is_local(&self) -> bool {
        is_local(&self.uri)
    }
}

/// Whether a URI names this machine.
///
/// Source: <https://libvirt.org/uri.html>: a remote URI names a host; `unix` transports are local.
pub fn is_local(uri: &str) -> bool {
    let Some((scheme, rest)) = uri.split_once("://") else {
        return true;
    };
    let transport = scheme.split_once('+').map_or("", |(_, transport)| transport);
    rest.starts_with('/') && matches!(transport, "" | "unix")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_uris_without_a_host_are_local() {
        for uri in
            ["qemu:///system", "qemu:///session", "qemu+unix:///system?socket=/x", "test:///d"]
        {
            assert!(is_local(uri), "{uri}");
        }
        for uri in
            ["qemu+ssh://root@host/system", "qemu://host/system", "qemu+tcp://127.0.0.1/system"]
        {
            assert!(!is_local(uri), "{uri}");
        }
    }
}
