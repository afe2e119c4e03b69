//! Checks whether the settings of this machine may be changed.

use common::cli::is_root;
use common::libvirt::is_local;
use common::system::sysroot::Host;
use common::{Error, Result};

/// Fails if the host's settings cannot be changed from here: in a container, and for a remote libvirt.
///
/// Errors: `unsupported` (exit 6); `not_found` for a `--sysroot` that is not the tree of a machine.
pub fn check(host: &Host, uri: Option<&str>) -> Result<()> {
    host.expect_machine()?;
    if let Some(uri) = uri.filter(|uri| !is_local(uri)) {
        return Err(Error::unsupported(format!(
            "{uri} is another host, whose settings cannot be changed from here"
        ))
        .hint("run the command on that host, without --connect and --host"));
    }
    if let Some(kind) = container(host) {
        return Err(Error::unsupported(format!(
            "this is a container ({kind}), which cannot change the settings of the host"
        ))
        .hint("run the command on the host"));
    }
    Ok(())
}

/// Fails for a user who is not root.
///
/// Errors: `permission` (exit 7).
pub fn check_root(host: &Host) -> Result<()> {
    if host.is_this_machine() && !is_root() {
        Err(Error::permission("only root may change the settings of the host")
            .hint("run the command with sudo, or with --dry-run to see the plan"))
    } else {
        Ok(())
    }
}

/// Returns the kind of container that this is; `None` outside of a container.
///
/// Source: <https://systemd.io/CONTAINER_INTERFACE>; the files that Docker and Podman put into containers.
fn container(host: &Host) -> Option<String> {
    let said = host.read("/run/systemd/container").ok().flatten();
    let environment = host.read_bytes("/proc/1/environ").ok().flatten().unwrap_or_default();
    let environment = String::from_utf8_lossy(&environment).into_owned();
    let variable = environment.split('\0').find_map(|word| word.strip_prefix("container="));
    let files = [("/.dockerenv", "docker"), ("/run/.containerenv", "podman")];
    let by_file = files.iter().find(|(file, _)| host.has(file)).map(|(_, kind)| (*kind).to_owned());
    said.map(|text| text.trim().to_owned()).or(variable.map(str::to_owned)).or(by_file)
}
