//! The systemd unit that binds the devices that `tdx-gpu bind --persist` recorded, at every boot.
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
/// The link that `systemctl enable` would create.
const WANTS: &str = "/etc/systemd/system/multi-user.target.wants";
const LINK: &str = "/etc/systemd/system/multi-user.target.wants/tdx-gpu-bind.service";
const TARGET: &str = "../tdx-gpu-bind.service";

/// The text of the unit, which runs this program before other units start guests or use GPUs.
///
/// Errors: `unsupported` when the path of this program is unknown.
fn text() -> Result<String> {
    let unknown = || Error::unsupported("cannot determine the path of the running tdx-gpu");
    let program = std::env::current_exe().map_err(|error| unknown().because(error))?;
    let program = program.to_str().ok_or_else(unknown)?;
    let program = program.replace('\\', "\\\\").replace('"', "\\\"").replace('%', "%%");
    Ok(format!(
        "# Created by tdx-gpu bind --persist, and removed with the record of the last device.\n\
         [Unit]\n\
         Description=Bind the PCI devices that tdx-gpu bind --persist recorded to VFIO\n\
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

/// Creates and enables the unit, unless that was done before.
pub fn ensure(host: &Host) -> Result<()> {
    let (unit, link) = (host.path(UNIT), host.path(LINK));
    let wanted = text()?;
    let there = fs::read_to_string(&unit).is_ok_and(|there| there == wanted);
    let enabled = fs::read_link(&link).is_ok();
    if there && enabled {
        return Ok(());
    }
    log::step(format_args!("create and enable the unit {UNIT}"));
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

/// Whether the unit exists.
pub fn exists(host: &Host) -> bool {
    host.has(UNIT)
}

/// Removes the unit, if it exists.
pub fn remove(host: &Host) -> Result<()> {
    let link = sysroot::remove(&host.path(LINK))?;
    let unit = sysroot::remove(&host.path(UNIT))?;
    if link || unit {
        log::step(format_args!("remove the unit {UNIT}"));
        reload(host);
    }
    Ok(())
}

/// Reloads systemd, if it runs. A failure is only logged, because the next boot reads the unit anyway.
fn reload(host: &Host) {
    if host.is_this_machine()
        && host.has("/run/systemd/system")
        && let Err(error) = Runner::new("systemctl", "systemd").args(["daemon-reload"]).run()
    {
        log::step(format_args!(
            "cannot reload systemd: {error}; systemd reads the unit at the next boot"
        ));
    }
}
