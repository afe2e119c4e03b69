//! Whether the settings of this machine are ours to change.

use common::cli::is_root;
use common::libvirt::is_local;
use common::system::sysroot::Host;
use common::{Error, Result};

/// Fails where the host's settings are not to be had: in a container, and for guests of another machine.
///
/// Errors: `unsupported` (exit 6); `not_found` for a tree of no machine.
pub fn check(host: &Host, uri: Option<&str>) -> Result<()> {
    host.expect_machine()?;
    if let Some(uri) = uri.filter(|uri| !is_local(uri)) {
        return Err(Error::unsupported(format!(
            "{uri} is another machine, whose settings are its own"
        ))
        .hint("run this there, without --connect"));
    }
    if let Some(kind) = container(host) {
        return Err(Error::unsupported(format!(
            "this is a container ({kind}): the host's settings are not its own"
        ))
        .hint("run this on the host"));
    }
    Ok(())
}

/// Fails for who may not change the host's settings.
///
/// Errors: `permission` (exit 7).
pub fn check_root(host: &Host) -> Result<()> {
    if host.is_this_machine() && !is_root() {
        Err(Error::permission("the host's settings are root's to change")
            .hint("run it with sudo, or with --dry-run to see the plan"))
    } else {
        Ok(())
    }
}

/// The kind of container that this is; none on a machine.
///
/// Source: <https://systemd.io/CONTAINER_INTERFACE>; the files that Docker and Podman put into theirs.
fn container(host: &Host) -> Option<String> {
    let said = host.read("/run/systemd/container").ok().flatten();
    let environment = host.read_bytes("/proc/1/environ").ok().flatten().unwrap_or_default();
    let environment = String::from_utf8_lossy(&environment).into_owned();
    let variable = environment.split('\0').find_map(|word| word.strip_prefix("container="));
    let files = [("/.dockerenv", "docker"), ("/run/.containerenv", "podman")];
    let by_file = files.iter().find(|(file, _)| host.has(file)).map(|(_, kind)| (*kind).to_owned());
    said.map(|text| text.trim().to_owned()).or(variable.map(str::to_owned)).or(by_file)
}
