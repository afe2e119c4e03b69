//! Reaching libvirt: where it must be on this machine, and where it may be missing.

use common::libvirt::{Context, Libvirt, Target};
use common::system::sysroot::Host;
use common::{Error, Result};

/// Connects to the libvirt that has this machine's devices.
///
/// Errors: `unsupported` (exit 6) for one elsewhere, besides those of connecting.
pub fn open(target: &Target) -> Result<Libvirt> {
    let libvirt = Libvirt::open(target)?;
    match is_here(&libvirt)? {
        true => Ok(libvirt),
        false => Err(Error::unsupported(format!(
            "{} is not on this machine, whose disks these are",
            libvirt.uri()
        ))
        .hint("run tdx-disk there")),
    }
}

/// The same for what can be told without libvirt, too: none, and why.
pub fn try_open(host: &Host, target: &Target) -> Result<Libvirt, String> {
    if !host.is_this_machine() {
        return Err("what guests have is not known: --sysroot is another machine".to_owned());
    }
    let mut target = target.clone();
    let chosen = target.uri.is_some() || std::env::var_os("LIBVIRT_DEFAULT_URI").is_some();
    if !chosen && !common::cli::is_root() {
        // libvirt's own default for a user would start a daemon of the user's own.
        target.uri = Some("qemu:///system".to_owned());
    }
    open(&target).map_err(|error| {
        let causes = error.causes().into_iter().map(|cause| format!(": {cause}"));
        format!("what guests have is not known: {error}{}", causes.collect::<String>())
    })
}

/// Whether the daemon runs on this machine. A tunnel may make another one look near, so the daemon's
/// own name has to be ours as well.
fn is_here(libvirt: &Libvirt) -> Result<bool> {
    if libvirt.is_local() {
        return Ok(true);
    }
    let system = rustix::system::uname();
    let own = system.nodename().to_string_lossy();
    let named = host_of(libvirt.uri()).is_some_and(|host| {
        let address = host.parse().is_ok_and(|address: std::net::IpAddr| address.is_loopback());
        host == "localhost" || host == own || address
    });
    Ok(named && libvirt.connect().hostname().context("ask libvirt for its host")? == own)
}

/// The host that a URI names.
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
    fn hosts_are_found_in_uris() {
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
