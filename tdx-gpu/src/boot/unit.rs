//! The systemd unit that binds at every boot what `tdx-gpu bind --persist` recorded.
//!
//! Source: systemd.unit(5), systemd.service(5), systemd.syntax(7).

use std::fs;
use std::os::unix::fs::symlink;

use common::cli::log;
use common::system::exec::Runner;
use common::system::sysroot;
use common::system::sysroot::Host;
use common::{Error, IoContext, Result};

const UNIT: &str = "/etc/systemd/system/tdx-gpu-bind.service";
/// What `systemctl enable` would make.
const WANTS: &str = "/etc/systemd/system/multi-user.target.wants";
const LINK: &str = "/etc/systemd/system/multi-user.target.wants/tdx-gpu-bind.service";
const TARGET: &str = "../tdx-gpu-bind.service";

/// The unit that runs this program before anything starts a guest or takes a GPU for the host.
///
/// Errors: `unsupported` when nobody can say where this program is.
fn text() -> Result<String> {
    let unknown = || Error::unsupported("cannot tell where this program is");
    let program = std::env::current_exe().map_err(|error| unknown().because(error))?;
    let program = program.to_str().ok_or_else(unknown)?;
    let program = program.replace('\\', "\\\\").replace('"', "\\\"").replace('%', "%%");
    Ok(format!(
        "# Made by tdx-gpu bind --persist, and removed with the last device that is recorded.\n\
         [Unit]\n\
         Description=Give the PCI devices that tdx-gpu bind --persist recorded to VFIO\n\
         ConditionDirectoryNotEmpty=/etc/tdx/bind.d\n\
         After=systemd-modules-load.service\n\
         Before=libvirtd.service virtqemud.service libvirt-guests.service\n\
         Before=nvidia-persistenced.service display-manager.service\n\
         \n\
         [Service]\n\
         Type=oneshot\n\
         RemainAfterExit=yes\n\
         ExecStart=\"{program}\" bind --persisted\n\
         \n\
         [Install]\n\
         WantedBy=multi-user.target\n"
    ))
}

/// Makes sure of the unit, and that it is enabled.
pub fn ensure(host: &Host) -> Result<()> {
    let (unit, link) = (host.path(UNIT), host.path(LINK));
    let wanted = text()?;
    let there = fs::read_to_string(&unit).is_ok_and(|there| there == wanted);
    let enabled = fs::read_link(&link).is_ok();
    if there && enabled {
        return Ok(());
    }
    log::step(format_args!("the unit {UNIT}"));
    let wants = host.path(WANTS);
    fs::create_dir_all(&wants).at("create", &wants)?;
    sysroot::replace(&unit, &wanted, 0o644)?;
    if !enabled {
        symlink(TARGET, &link).at("create", &link)?;
        sysroot::flush(&wants)?;
    }
    reload(host);
    Ok(())
}

/// Whether the unit is there.
pub fn exists(host: &Host) -> bool {
    host.has(UNIT)
}

/// Takes the unit away; nothing to do when there is none.
pub fn remove(host: &Host) -> Result<()> {
    let link = sysroot::remove(&host.path(LINK))?;
    let unit = sysroot::remove(&host.path(UNIT))?;
    if link || unit {
        log::step(format_args!("no unit {UNIT}"));
        reload(host);
    }
    Ok(())
}

/// Tells systemd, where it runs. The next boot reads the unit anyway.
fn reload(host: &Host) {
    if host.is_this_machine()
        && host.has("/run/systemd/system")
        && let Err(error) = Runner::new("systemctl", "systemd").args(["daemon-reload"]).run()
    {
        log::step(format_args!("systemd has not seen it yet: {error}"));
    }
}
