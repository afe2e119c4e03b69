//! Connects to libvirt: for verbs that need a libvirt on this machine, and for verbs that can work without libvirt.

use common::libvirt::{Context, Libvirt, Target};
use common::system::sysroot::Host;
use common::{Error, Result};

/// Connects to the libvirt of this machine.
///
/// Errors: `unsupported` (exit 6) for a libvirt on another machine; those of connecting.
pub fn open(target: &Target) -> Result<Libvirt> {
    let libvirt = Libvirt::open(target)?;
    if is_on_this_machine(&libvirt)? {
        return Ok(libvirt);
    }
    let message =
        format!("{} is on another machine, but tdx-disk works only on this machine", libvirt.uri());
    Err(Error::unsupported(message).hint("run tdx-disk on that machine"))
}

/// Connects to libvirt for a verb that can work without it.
///
/// Errors: a warning with the reason why the disks of guests are unknown.
pub fn try_open(host: &Host, target: &Target) -> Result<Libvirt, String> {
    if !host.is_this_machine() {
        return Err(
            "the disks of guests are unknown: with --sysroot, tdx-disk does not query libvirt"
                .to_owned(),
        );
    }
    let mut target = target.clone();
    let chosen = target.uri.is_some() || std::env::var_os("LIBVIRT_DEFAULT_URI").is_some();
    if !chosen && !common::cli::is_root() {
        // libvirt's default for an ordinary user would start a daemon of that user.
        target.uri = Some("qemu:///system".to_owned());
    }
    open(&target).map_err(|error| {
        let causes = error.causes().into_iter().map(|cause| format!(": {cause}"));
        format!("the disks of guests are unknown: {error}{}", causes.collect::<String>())
    })
}

/// Whether the daemon runs on this machine. A tunnel may make a remote daemon look local, so the daemon has to report
/// the name of this machine as well.
fn is_on_this_machine(libvirt: &Libvirt) -> Result<bool> {
    if libvirt.is_local() {
        return Ok(true);
    }
    let system = rustix::system::uname();
    let own = system.nodename().to_string_lossy();
    let named = host_of(libvirt.uri()).is_some_and(|host| {
        let address = host.parse().is_ok_and(|address: std::net::IpAddr| address.is_loopback());
        host == "localhost" || host == own || address
    });
    Ok(named && libvirt.connect().hostname().context("read the host name of libvirt")? == own)
}

/// The host in a connection URI.
fn host_of(uri: &str) -> Option<&str> {
    let authority = uri.split_once("://")?.1.split('/').next()?;
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    match host.strip_prefix('[') {
        Some(host) => host.split(']').next(),
        None => host.split(':').next(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_of_finds_the_host_in_a_uri() {
        for (uri, host) in [
            ("qemu+tcp://127.0.0.1/system", "127.0.0.1"),
            ("qemu+ssh://root@host:22/system", "host"),
            ("qemu+tls://[::1]:16514/system", "::1"),
            ("qemu:///system", ""),
        ] {
            assert_eq!(host_of(uri), Some(host), "{uri}");
        }
    }
}
