//! Connects to libvirt, as the options or the configuration say.

use clap::Args;
use virt::connect::Connect;

use super::error::{self, Context};
use super::hosts::Hosts;
use super::last_error::last_errno;
use super::target::Target;
use crate::cli;
use crate::cli::config::Config;
use crate::cli::log;
use crate::error::{Error, Result};
use crate::system::sysroot::Host;

/// The options of every tool that uses libvirt.
#[derive(Debug, Clone, Args)]
pub struct ConnectArgs {
    /// Connect to libvirt at this URI [default: `connect` in the configuration, otherwise libvirt's own default]
    #[arg(short, long, global = true, value_name = "URI", help_heading = "Global options")]
    pub connect: Option<String>,
    /// Connect to libvirt on the host NAME; hosts.yaml lists the hosts with their URIs
    #[arg(long, global = true, value_name = "NAME", help_heading = "Global options")]
    pub host: Option<String>,
}

impl ConnectArgs {
    /// Whether `--connect` or `--host` was given.
    pub fn is_given(&self) -> bool {
        self.connect.is_some() || self.host.is_some()
    }

    /// Decides which libvirt to connect to: by the options, else by the configuration, else libvirt's default.
    ///
    /// Errors: `usage` for both options at once; those of [`Hosts::load`] and [`Hosts::get`].
    pub fn target(&self, host: &Host, config: &Config) -> Result<Target> {
        match (&self.connect, &self.host) {
            (Some(_), Some(_)) => Err(Error::usage("--connect and --host cannot be used together")),
            (None, Some(name)) => {
                let entry = Hosts::load(host, config)?.get(name)?.clone();
                Ok(Target { uri: Some(entry.uri), host: Some(name.clone()) })
            }
            (uri, None) => {
                Ok(Target { uri: uri.clone().or_else(|| config.connect.clone()), host: None })
            }
        }
    }
}

/// An open connection.
#[derive(Debug)]
pub struct Libvirt {
    connect: Connect,
    uri: String,
    host: Option<String>,
}

impl Libvirt {
    /// Connects.
    ///
    /// Errors: `unsupported` (exit 6) when libvirt is not installed, not running or unreachable, `permission`
    /// (exit 7) when libvirt refuses the connection, `usage` for an invalid URI.
    pub fn open(target: &Target) -> Result<Self> {
        virt::error::clear_error_callback();
        let wanted = target.uri.as_deref();
        if wanted.is_some_and(|uri| uri.contains('\0')) {
            return Err(Error::usage("the connection URI contains a NUL byte"));
        }
        let connect = Connect::open(wanted)
            .map_err(|cause| error::cannot_connect(target, cause, last_errno()))?;
        let uri = connect.uri().context("read the URI of the libvirt connection")?;
        log::detail(format_args!("connected to {uri}"));
        Ok(Self { connect, uri, host: target.host.clone() })
    }

    /// Connects for a verb. If the connection is remote, the document of the verb names the remote machine.
    ///
    /// Errors: those of [`Libvirt::open`].
    pub fn open_for(context: &cli::Context, target: &Target) -> Result<Self> {
        let libvirt = Self::open(target)?;
        if !libvirt.is_local() {
            context.set_remote(libvirt.host_name());
        }
        Ok(libvirt)
    }

    /// The name of the machine that the libvirt daemon runs on; none when the daemon does not report it.
    ///
    /// Source: <https://libvirt.org/html/libvirt-libvirt-host.html#virConnectGetHostname>.
    fn host_name(&self) -> Option<String> {
        match self.connect.hostname() {
            Ok(name) => Some(name).filter(|name| !name.is_empty()),
            Err(error) => {
                log::detail(format_args!("libvirt does not report the name of its host: {error}"));
                None
            }
        }
    }

    /// The connection object of the [`virt`] crate.
    pub fn connect(&self) -> &Connect {
        &self.connect
    }

    /// The URI of the connection.
    pub fn uri(&self) -> &str {
        &self.uri
    }

    /// The name of the host in hosts.yaml, if `--host` chose the connection.
    pub fn host(&self) -> Option<&str> {
        self.host.as_deref()
    }

    /// Whether the connection still works. It does not after the daemon ended.
    pub fn is_alive(&self) -> bool {
        self.connect.is_alive().unwrap_or(false)
    }

    /// Whether the daemon runs on this machine, so that both see the same files.
    pub fn is_local(&self) -> bool {
        is_local(&self.uri)
    }
}

/// Whether a connection URI leads to this machine.
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
